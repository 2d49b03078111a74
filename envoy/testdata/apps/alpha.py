"""One of two applications behind one Gatehouse: Flask. Test only."""

from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/healthz")
def health():
    return jsonify(status="ok")


@app.get("/things/<thing>")
def read(thing):
    return jsonify(app="alpha", thing=thing)


@app.get("/alpha/<name>")
def own(name):
    return jsonify(app="alpha", name=name)
