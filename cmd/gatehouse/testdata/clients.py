"""What Aserto's packages get from a directory listener, as JSON. Run in the example's folder."""

import json
import os
import sys

sys.path.insert(0, os.getcwd())

import grpc
from app import app
from aserto.authorizer.v2.api import IdentityType
from aserto.client import AuthorizerOptions, Identity
from aserto.client.authorizer import AuthorizerClient
from aserto.directory.common.v3 import Object
from aserto.directory.model.v3 import GetManifestRequest, ModelStub
from aserto.directory.reader.v3 import (
    CheckRequest,
    GetGraphRequest,
    GetObjectRequest,
    GetObjectsRequest,
    ReaderStub,
)
from aserto.directory.writer.v3 import SetObjectRequest, WriterStub
from google.protobuf.json_format import MessageToDict

url, key, cert = os.environ["AUTHORIZER_URL"], os.environ["AUTHORIZER_API_KEY"], os.environ["AUTHORIZER_CERT"]
results = {}


def code(ask):
    try:
        return ask()
    except grpc.RpcError as error:
        return error.code().name


# The example, by its own test client: each request asks over the network.
http = app.test_client()
results["vera"] = http.get("/protected_route/secret", headers={"x-user": "vera"}).status_code
results["bob"] = http.get("/protected_route/secret", headers={"x-user": "bob"}).status_code
results["bob public"] = http.get("/protected_route/public", headers={"x-user": "bob"}).status_code
results["nobody"] = http.get("/protected_route/public").status_code
results["map of vera"] = http.get("/__displaystatemap", headers={"x-user": "vera"}).get_json()
results["map of bob"] = http.get("/__displaystatemap", headers={"x-user": "bob"}).get_json()


def decide(kind, value, api_key, path="example.GET.protected_route.__parameter"):
    client = AuthorizerClient(
        identity=Identity(type=kind, value=value),
        options=AuthorizerOptions(url=url, api_key=api_key, cert_file_path=cert),
    )
    answer = code(lambda: client.decisions(policy_path=path, decisions=["allowed"]))
    client.close()
    return answer


sub, jwt = IdentityType.IDENTITY_TYPE_SUB, IdentityType.IDENTITY_TYPE_JWT
results["unknown path"] = decide(sub, "vera", key, path="example.GET.other")
results["no key"] = decide(sub, "vera", None)
results["wrong key"] = decide(sub, "vera", key[:-1] + ("1" if key[-1] == "0" else "0"))
results["naming a user"] = decide(sub, "vera", os.environ["OTHER_KEY"])
results["a forged token"] = decide(jwt, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ2ZXJhIn0.", key)



def client_of(api_key, user="vera"):
    return AuthorizerClient(
        identity=Identity(type=sub, value=user), options=AuthorizerOptions(url=url, api_key=api_key, cert_file_path=cert)
    )


# Is, DecisionTree and Query by the client's own methods.
about = {"parameter": "handbook"}
rule = "example.GET.protected_route.__parameter"
for user in ("vera", "bob"):
    client = client_of(key, user)
    results[f"decisions of {user}"] = client.decisions(
        policy_path=rule, decisions=["allowed", "visible", "enabled"], resource_context=about
    )
    results[f"tree of {user}"] = client.decision_tree(
        policy_path_root="example",
        decisions=["visible", "enabled"],
        resource_context=about,
        policy_path_separator="SLASH",
    )
    client.close()


def query(api_key, text, user="vera", own="", parameter="handbook"):
    client = client_of(api_key, user)
    answer = code(
        lambda: MessageToDict(
            client.query(
                query=text,
                input=own,
                policy_path=rule,
                decisions=["allowed"],
                resource_context={"parameter": parameter},
            ).response
        )
    )
    client.close()
    return answer if isinstance(answer, str) else [found["bindings"] for found in answer["result"]]


asking = os.environ["QUERY_KEY"]
results["query"] = [
    query(asking, f"x = data.{rule}.allowed; y = input.user.id", user) for user in ("vera", "bob", "nobody")
]
results["query of the directory"] = query(
    asking,
    'x = ds.check({"object_type": "group", "object_id": "viewers", "relation": "member",'
    ' "subject_type": "user", "subject_id": input.who})',
    own='{"who": "vera"}',
)
results["query that fails"] = query(asking, 'x = ds.check({"object_type": "nothing"})')
results["query for another user"] = query(asking, "x = input.user.id", own='{"user": {"id": "bob"}}')
results["query out of bounds"] = query(asking, "x = [" + "1, " * 2000 + "1]")
results["query without the scope"] = query(key, "x = 1")
results["query without a right key"] = query(key[:-1] + ("1" if key[-1] == "0" else "0"), "x = 1")

with open(cert, "rb") as f:
    channel = grpc.secure_channel(url, grpc.ssl_channel_credentials(f.read()))
auth = (("authorization", f"basic {key}"),)
reader = ReaderStub(channel)
results["check"] = [
    reader.Check(
        CheckRequest(object_type="group", object_id="viewers", relation="member", subject_type="user", subject_id=user),
        metadata=auth,
    ).check
    for user in ("vera", "bob")
]
results["object"] = reader.GetObject(GetObjectRequest(object_type="user", object_id="vera"), metadata=auth).result.id
results["no object"] = code(
    lambda: reader.GetObject(GetObjectRequest(object_type="user", object_id="eve"), metadata=auth).result.id
)
users = reader.GetObjects(GetObjectsRequest(object_type="user"), metadata=auth).results
results["users"] = sorted(user.id for user in users)
graph = GetGraphRequest(object_type="group", object_id="viewers", relation="member", subject_type="user")
results["graph"] = [found.object_id for found in reader.GetGraph(graph, metadata=auth).results]
parts = ModelStub(channel).GetManifest(GetManifestRequest(), metadata=auth)
results["manifest"] = b"version: 3" in b"".join(part.body.data for part in parts)
results["write"] = code(
    lambda: WriterStub(channel).SetObject(SetObjectRequest(object=Object(type="user", id="eve")), metadata=auth)
)
print(json.dumps(results))
