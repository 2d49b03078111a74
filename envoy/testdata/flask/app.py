"""What Flask makes of a request: one resource to protect, and a mirror. The twin of testdata/fastapi. Test only."""

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.before_request
def read():
    """gunicorn resets a connection whose body nobody read, and Envoy may then lose the answer."""
    request.get_data()


@app.after_request
def name(response):
    response.headers["x-app"] = "flask"
    return response


@app.get("/healthz")
def health():
    return jsonify(status="ok")


@app.get("/admin/secret")
def secret():
    return jsonify("the crown jewels")


@app.route("/headers/<kind>", methods=["GET", "POST", "PUT", "DELETE"])
def headers(kind):
    """Every header as WSGI shows it, and the method."""
    return jsonify(method=request.method, headers=[list(pair) for pair in request.headers])
