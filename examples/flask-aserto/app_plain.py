"""One route that not everybody may call."""

from flask import (
    Flask,
    jsonify,
)

app = Flask(__name__, static_folder=None)


@app.route("/protected_route/<parameter>")
def protected_route(parameter: str):
    return jsonify(parameter=parameter)
