"""Asks a real framework, for the differential test.

python oracle.py KIND TARGET: KIND is flask, asgi, django or django-asgi. Reads lines of JSON {"method", "host", "path"}
with the path as on the wire (WEBSOCKET is an upgrade), and answers each with {"outcome": "match|redirect|405|404|error|unparsed", "name",
"params"}. Requests go through gunicorn's or uvicorn's own reading of a request and the framework's whole dispatch.
Parameters are the strings on the URL: what converters make of them is noted down on the way.
"""

import asyncio
import functools
import importlib
import json
import logging
import os
import sys
import warnings
from urllib.parse import unquote

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "apps"))


def load(target):
    module, _, name = target.partition(":")
    value = getattr(importlib.import_module(module), name.partition("(")[0])
    return eval(name, vars(importlib.import_module(module))) if name.endswith(")") else value


@functools.cache
def gunicorn_config():
    from gunicorn.config import Config

    config = Config()
    config.set("limit_request_line", 0)  # some deployments do
    return config


def gunicorn_environ(method, host, path):
    from gunicorn.http import wsgi
    from gunicorn.http.parser import RequestParser

    config = gunicorn_config()
    upgrade = ""
    if method == "WEBSOCKET":
        method, upgrade = "GET", "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n".encode()
    try:
        request = next(RequestParser(config, iter([head]), ("127.0.0.1", 1)))
        _, environ = wsgi.create(request, None, ("127.0.0.1", "1"), ("127.0.0.1", 80), config)
    except Exception:
        return None
    return environ


def call_wsgi(app, environ):
    status = []
    body = b"".join(app(environ, lambda s, headers, exc_info=None: status.append(int(s.split()[0]))))
    return status[0], body


def by_status(status):
    if status in (301, 302, 303, 307, 308):
        return {"outcome": "redirect"}
    return {"outcome": {404: "404", 405: "405"}.get(status, "error")}


class RawInt(int):
    raw = None


class RawFloat(float):
    raw = None


def raw(value):
    return getattr(value, "raw", value)


def flask(target):
    import uuid

    from flask import request
    from werkzeug.routing import converters

    class RawUUID(uuid.UUID):
        __slots__ = ("raw",)

    def keep(cls, kind):
        convert = cls.to_python

        def to_python(self, value):
            number = convert(self, value)
            made = kind(value) if kind is RawUUID else kind(number)
            object.__setattr__(made, "raw", value)
            return made

        cls.to_python = to_python

    keep(converters.IntegerConverter, RawInt)
    keep(converters.FloatConverter, RawFloat)
    keep(converters.UUIDConverter, RawUUID)
    app = load(target)
    found = []

    def note():
        if request.url_rule is None:
            return None
        names = request.url_rule._converters
        params = {k: str(raw(v)) for k, v in request.view_args.items() if k in names}
        found.append({"outcome": "match", "name": request.url_rule.endpoint, "params": params})
        return "ok"

    for one in [app, *getattr(app, "inner_apps", [])]:
        one.before_request(note)

    def ask(method, host, path):
        environ = gunicorn_environ(method, host, path)
        if environ is None:
            return {"outcome": "unparsed"}
        found.clear()
        status, _ = call_wsgi(app, environ)
        return found[0] if found else by_status(status)

    return ask


def django_setup(target):
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = target
    django.setup()
    from django.urls import converters

    importlib.import_module(importlib.import_module(target).ROOT_URLCONF)
    for converter in converters.get_converters().values():

        def to_python(value, convert=converter.to_python):
            convert(value)
            return value

        converter.to_python = to_python


def django(target):
    django_setup(target)
    from django.core.handlers.wsgi import WSGIHandler

    app = WSGIHandler()

    def ask(method, host, path):
        environ = gunicorn_environ(method, host, path)
        if environ is None:
            return {"outcome": "unparsed"}
        return answered(*call_wsgi(app, environ))

    return ask


def answered(status, body):
    if status != 200:
        return by_status(status)
    try:
        return {"outcome": "match", **json.loads(body)}
    except ValueError:
        return {"outcome": "match"}  # a page of FastAPI's own, or an answer to HEAD


def django_asgi(target):
    django_setup(target)
    from django.conf import settings
    from django.core.handlers.asgi import ASGIHandler

    if getattr(settings, "ASGI_APPLICATION", None):
        module, _, name = settings.ASGI_APPLICATION.rpartition(".")
        return asgi_ask(getattr(importlib.import_module(module), name))
    return asgi_ask(ASGIHandler())


def asgi(target):
    from starlette import convertors

    module = target.partition(":")[0]
    importlib.import_module(module)
    for convertor in convertors.CONVERTOR_TYPES.values():

        def convert(value, original=convertor.convert):
            original(value)
            return value

        convertor.convert = convert
    return asgi_ask(load(target))


def asgi_ask(app):
    import h11

    loop = asyncio.new_event_loop()

    def scope_of(method, host, path):
        """What uvicorn's h11_impl makes of a request."""
        socket = method == "WEBSOCKET"
        method = "GET" if socket else method
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        event = connection.next_event()
        raw_path, _, query = event.target.partition(b"?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "scheme": "http",
            "method": event.method.decode("ascii"), "root_path": "", "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path, "query_string": query, "state": {},
            "headers": [(k.lower(), v) for k, v in event.headers],
        }
        if socket:
            scope.update(type="websocket", scheme="ws", subprotocols=[])
            del scope["method"]
        return scope

    async def open_socket(scope):
        said = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            if message["type"] == "websocket.send":
                said.append(message["text"])

        await app(scope, receive, send)
        return (200, said[0]) if said else (404, b"")

    async def run(scope):
        if scope["type"] == "websocket":
            return await open_socket(scope)
        status, body, asked = [], [], [False]

        async def receive():
            if asked[0]:
                await asyncio.sleep(3600)
            asked[0] = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                status.append(message["status"])
            else:
                body.append(message.get("body", b""))

        await app(scope, receive, send)
        return status[0], b"".join(body)

    def ask(method, host, path):
        try:
            scope = scope_of(method, host, path)
        except Exception:
            return {"outcome": "unparsed"}
        try:
            status, body = loop.run_until_complete(run(scope))
        except Exception as e:
            return {"outcome": "error", "name": repr(e)}
        return answered(status, body)

    return ask


def regex():
    """Answers {"pattern", "full", "texts"} with what re's groups took of each text."""
    import re

    for line in sys.stdin:
        asked = json.loads(line)
        try:
            compiled = re.compile(asked["pattern"])
            match = compiled.fullmatch if asked["full"] else compiled.search
            found = [match(t) for t in asked["texts"]]
            answer = {"groups": [m and [m.group(0), *m.groups()] for m in found]}
        except (re.error, SystemError) as e:  # the latter is a fault of re
            answer = {"error": str(e)}
        print(json.dumps(answer), flush=True)


def main():
    kind, target = sys.argv[1:3]
    if kind == "re":
        return regex()
    ask = {"flask": flask, "asgi": asgi, "django": django, "django-asgi": django_asgi}[kind](target)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass")
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        answer = ask(request["method"], request["host"], request["path"])
        out.write(json.dumps(answer) + "\n")
        out.flush()


main()
