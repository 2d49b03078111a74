"""One route that not everybody may call."""
# It asks Gatehouse itself, by Aserto's SDK; nothing in it knows that it is not Topaz. app_plain.py is the same without the SDK, behind Envoy.

import os

from aserto.client import AuthorizerOptions, Identity
from aserto.client.identity import IdentityType
from flask import (
    Flask,
    jsonify,
    request,
)
from flask_aserto import AsertoMiddleware, AuthorizationError

app = Flask(__name__, static_folder=None)


def identity_provider() -> Identity:
    """The caller, whom the application knows already: here by a header, for the example's sake."""
    user = request.headers.get("x-user")
    if user is None:
        return Identity(type=IdentityType.IDENTITY_TYPE_NONE)
    return Identity(type=IdentityType.IDENTITY_TYPE_SUB, value=user)


aserto = AsertoMiddleware(
    authorizer_options=AuthorizerOptions(
        url=os.environ["AUTHORIZER_URL"],
        api_key=os.environ["AUTHORIZER_API_KEY"],
        cert_file_path=os.environ["AUTHORIZER_CERT"],
    ),
    policy_path_root="example",
    policy_instance_name="example",
    identity_provider=identity_provider,
)
aserto.register_display_state_map(app)


@app.errorhandler(AuthorizationError)
def denied(_: AuthorizationError):
    return jsonify(error="denied"), 403


@app.route("/protected_route/<parameter>")
@aserto.authorize
def protected_route(parameter: str):
    return jsonify(parameter=parameter)
