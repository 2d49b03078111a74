"""A small orders API: Flask, SQLite, JSON in and out."""

import os
import sqlite3
from pathlib import Path

from flask import Flask, abort, g, jsonify, request
from werkzeug.exceptions import HTTPException

app = Flask(__name__)
app.config["DATABASE"] = os.environ.get("ORDERS_DATABASE", "orders.db")


def db():
    """The request's connection; the first one ever creates and fills the tables."""
    if "db" not in g:
        g.db = sqlite3.connect(app.config["DATABASE"], timeout=10)
        g.db.row_factory = sqlite3.Row
        (version,) = g.db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            g.db.executescript(Path(app.root_path, "schema.sql").read_text())
    return g.db


@app.teardown_appcontext
def close_db(_error):
    connection = g.pop("db", None)
    if connection is not None:
        connection.close()


@app.errorhandler(HTTPException)
def as_json(error):
    return jsonify(error=error.description), error.code


def order_or_404(order_id):
    row = db().execute("SELECT * FROM orders WHERE id = ?", (order_id,)).fetchone()
    if row is None:
        abort(404, f"there is no order {order_id}")
    return dict(row)


def order_from_body():
    """The item and the amount that the client sent, or 400."""
    body = request.get_json()
    if not isinstance(body, dict):
        abort(400, "the body must be a JSON object")
    item, amount = body.get("item"), body.get("amount")
    if not isinstance(item, str) or not item.strip():
        abort(400, "item must be a text")
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 < amount < 1e9:
        abort(400, "amount must be a positive number")
    return item.strip(), amount


@app.get("/healthz")
def health():
    db().execute("SELECT 1 FROM orders LIMIT 1")
    return jsonify(status="ok")


@app.get("/orders")
def list_orders():
    rows = db().execute("SELECT * FROM orders ORDER BY id")
    return jsonify(orders=[dict(row) for row in rows])


@app.get("/orders/<int:order_id>")
def read_order(order_id):
    return jsonify(order_or_404(order_id))


@app.put("/orders/<int:order_id>")
def update_order(order_id):
    item, amount = order_from_body()
    order_or_404(order_id)
    with db() as tx:
        tx.execute("UPDATE orders SET item = ?, amount = ? WHERE id = ?", (item, amount, order_id))
    return jsonify(order_or_404(order_id))


@app.delete("/orders/<int:order_id>")
def delete_order(order_id):
    order = order_or_404(order_id)
    with db() as tx:
        tx.execute("DELETE FROM orders WHERE id = ?", (order_id,))
    return jsonify(deleted=order)


@app.get("/users/<user>/orders")
def list_user_orders(user):
    rows = db().execute("SELECT * FROM orders WHERE owner = ? ORDER BY id", (user,))
    return jsonify(orders=[dict(row) for row in rows])


@app.post("/users/<user>/orders")
def create_order(user):
    item, amount = order_from_body()
    with db() as tx:
        cursor = tx.execute(
            "INSERT INTO orders (owner, item, amount) VALUES (?, ?, ?)", (user, item, amount)
        )
    return jsonify(order_or_404(cursor.lastrowid)), 201
