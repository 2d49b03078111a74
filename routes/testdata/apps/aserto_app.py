"""Has one route with a parameter, and serves itself when run; it must not when it is imported."""

from flask import Flask

app = Flask(__name__)


@app.route("/protected_route/<parameter>", methods=["GET"])
def protected(parameter):
    return parameter


app.run()
