"""A Starlette application with every convertor, mounts in mounts, hosts, class-based endpoints and overlaps."""

import json
import re

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.endpoints import HTTPEndpoint
from starlette.responses import JSONResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute


class NotConvertor(Convertor):
    regex = "(?!static$)[^/]+"

    def convert(self, value):
        return value

    def to_string(self, value):
        return value


register_url_convertor("not", NotConvertor())


class HexConvertor(Convertor):
    regex = "[0-9a-f]+"

    def convert(self, value):
        return int(value, 16)

    def to_string(self, value):
        return "%x" % value


register_url_convertor("hex", HexConvertor())


def at(path, name, **options):
    async def endpoint(request):
        return JSONResponse({"name": name, "params": request.path_params})

    return Route(path, endpoint, name=name, **options)


class Thing(HTTPEndpoint):
    async def get(self, request):
        return JSONResponse({"name": "thing", "params": request.path_params})

    async def post(self, request):
        return JSONResponse({"name": "thing", "params": request.path_params})


def opaque(prefix, name):
    async def application(scope, receive, send):
        path = re.match(f"^{prefix}/(?P<path>.*)$", scope["path"])["path"]
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": json.dumps({"name": name, "params": {"path": path}})})
            return
        await JSONResponse({"name": name, "params": {"path": path}})(scope, receive, send)

    return application


def ws(path, name):
    async def endpoint(websocket):
        await websocket.accept()
        await websocket.send_json({"name": name, "params": websocket.path_params})

    return WebSocketRoute(path, endpoint, name=name)


inner = [
    at("/", "inner_root"),
    at("/x/{x}", "inner_x"),
    ws("/x/{s}", "inner_socket"),
    at("/y/{y:int}/", "inner_y"),
    Mount("/deep/{d}", routes=[at("/", "deep_root"), at("/{rest:path}", "deep_rest", methods=["POST"])], name="deep"),
]

app = Starlette(
    routes=[
        at("/", "index"),
        at("/orders", "orders", methods=["GET", "POST"]),
        at("/orders/{id:int}", "order"),
        at("/orders/{id:int}", "order_put", methods=["PUT"]),
        at("/orders/{name}", "order_by_name", methods=["GET", "DELETE"]),
        at("/orders/new", "order_new", methods=["PATCH"]),
        at("/float/{f:float}", "float"),
        at("/float/{f:int}", "float_int", methods=["POST"]),
        at("/uuid/{u:uuid}", "uuid"),
        at("/hex/{h:hex}", "hex"),
        at("/files/{p:path}", "files"),
        at("/not/{x:not}", "not"),
        at("/not/{x:not}/{y:int}", "not_int"),
        at("/not/{p:path}", "not_path"),
        at("/files/special", "files_special", methods=["POST"]),
        at("/wiki/{p:path}/edit", "wiki_edit"),
        at("/wiki/{p:path}/", "wiki"),
        at("/mixed/{a}-{b}", "mixed"),
        at("/mixed/{a:int}.{ext}", "mixed_ext"),
        at("/mixed/v{a}", "mixed_v"),
        at("/slash/", "slash"),
        at("/slash/{x}/", "slash_x"),
        at("/noslash", "noslash"),
        at("/braces/{not-a-param}", "braces"),
        at("/uni/caf\u00e9/{x}", "unicode"),
        at("/plus+%/{x}", "plus"),
        Route("/thing/{id}", Thing, name="thing"),
        at("/thing/{id}", "thing_after", methods=["DELETE"]),
        ws("/ws", "ws"),
        ws("/ws/admin", "ws_admin"),
        at("/ws/{x}", "ws_page"),
        ws("/ws/{room}", "ws_room"),
        ws("/ws/{room:int}/", "ws_number"),
        Mount("/sockets", routes=[ws("/", "sockets_root"), ws("/{p:path}", "sockets_path")], name="sockets"),
        Mount("/empty", routes=[], name="empty"),
        Mount("/only", routes=[ws("/x", "only_x")], name="only"),
        at("/empty/hidden", "empty_hidden"),
        Mount("/static", app=opaque("/static", "static"), name="static"),
        Mount("/api", routes=inner, name="api"),
        at("/api/x/hidden", "hidden"),
        Mount("/tenants/{tenant}", app=Starlette(routes=inner), name="tenants"),
        Mount("/tight", app=Router(routes=[at("/a/", "tight_a"), at("/b", "tight_b")], redirect_slashes=False)),
        Host("api.example.com", app=Router(routes=[at("/h/{x}", "host_x")]), name="host"),
        Host("{sub}.example.org", app=Router(routes=[at("/h/{x:int}", "sub_x"), at("/", "sub_root")]), name="sub"),
        at("/h/{x}", "no_host"),
        Mount("/late", routes=[at("/{x:path}", "late")], name="late"),
        Mount("", routes=[at("/fall/{x}", "fall")], name="fall"),
    ],
)
