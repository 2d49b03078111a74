"""What Aserto's directory client gets where it writes, as JSON."""

import json
import os

import grpc
from aserto.client.directory import NotFoundError
from aserto.client.directory.v3 import Directory, ETagMismatchError
from aserto.directory.common.v3 import Object, Relation
from aserto.directory.exporter.v3 import Option

url, key, cert = os.environ["AUTHORIZER_URL"], os.environ["AUTHORIZER_API_KEY"], os.environ["AUTHORIZER_CERT"]
ds = Directory(address=url, api_key=key, ca_cert_path=cert)
results = {}


def code(ask):
    try:
        return ask()
    except (ETagMismatchError, NotFoundError) as error:
        return type(error).__name__
    except grpc.RpcError as error:
        return error.code().name


def reads():
    return ds.check("group", "viewers", "member", "user", "eve")


try:
    eve = ds.set_object(object_type="user", object_id="eve", display_name="Eve", properties={"age": 7})
except Exception as error:  # what an application shows of it
    print(json.dumps({"refused": str(error)}))
    raise SystemExit(0)

results["set"] = ds.get_object("user", "eve").display_name
checks = [reads()]
ds.set_relation("group", "viewers", "member", "user", "eve")
checks.append(reads())
results["with relations"] = code(lambda: ds.delete_object("user", "eve"))
ds.delete_relation("group", "viewers", "member", "user", "eve")
checks.append(reads())
results["check"] = checks
eve.display_name = "Eva"
ds.set_object(object=eve)
results["etag"] = code(lambda: ds.set_object(object=eve))
results["unknown type"] = code(lambda: ds.set_object(object_type="dog", object_id="1"))
ds.delete_object("user", "eve")
results["deleted"] = code(lambda: ds.get_object("user", "eve").id)
ds.set_relation("group", "viewers", "member", "user", "bob")
ds.delete_object("user", "vera", with_relations=True)
done = ds.import_data(
    [
        Object(type="user", id="zoe"),
        Object(type="user", id="yan"),
        Object(type="dog", id="1"),
        Relation(object_type="group", object_id="viewers", relation="member", subject_type="user", subject_id="zoe"),
    ]
)
results["import"] = [[c.recv, c.set, c.delete, c.error] for c in (done.objects, done.relations)]
results["exported"] = sorted(o.id for o in ds.export_data(Option.OPTION_DATA_OBJECTS) if o.type == "user")
manifest = ds.get_manifest()
results["manifest, though"] = ds.get_manifest(etag=manifest.etag)
ds.set_manifest(manifest.body + b"# changed\n", etag=manifest.etag)
results["manifest"] = ds.get_manifest().body.endswith(b"# changed\n")
results["manifest etag"] = code(lambda: ds.set_manifest(manifest.body, etag=manifest.etag))
results["wrong manifest"] = code(lambda: ds.set_manifest(b"model: {version: 3}\ntypes: {user: {}}\n"))
other = Directory(address=url, api_key=os.environ["OTHER_KEY"], ca_cert_path=cert)
results["another's key"] = code(lambda: other.delete_object("user", "bob"))
print(json.dumps(results))
