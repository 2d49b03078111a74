"""Answers every request with the headers that it received, as WSGI shows them."""

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.get("/healthz")
def health():
    return jsonify(status="ok")


@app.route("/", defaults={"path": ""})
@app.route("/<path:path>")
def echo(path):
    return jsonify(dict(request.headers))


@app.get("/with-response-header")
def with_response_header():
    return "", 200, {"X-Auth-Subject": "app"}
