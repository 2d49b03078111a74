"""Says what a framework reads of request bodies: python bodies.py flask|fastapi|django.

One JSON line in: {"type": content type, "body": base64}. One out: {"error": why} or {"fields": [[name, value]], "files": [[name, value]], "json": document},
where json is there only if the framework takes the body for JSON.
"""

import base64
import io
import json
import sys


def environ(kind, body):
    return {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/", "SCRIPT_NAME": "", "SERVER_NAME": "x", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr, "wsgi.version": (1, 0),
        "CONTENT_TYPE": kind, "CONTENT_LENGTH": str(len(body)),
    }


def uploaded(data):
    return data.decode("utf-8", "replace")


def flask():
    from flask import Flask, request

    from werkzeug.formparser import FormDataParser

    class Strict(FormDataParser):  # as Flask's, but a form that is none is said and not just empty
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "silent": False})

    app = Flask("bodies")
    app.request_class = type("Request", (app.request_class,), {"form_data_parser_class": Strict})
    app.config.update(MAX_FORM_PARTS=100000, MAX_FORM_MEMORY_SIZE=None)

    def read(kind, body):
        with app.request_context(environ(kind, body)):
            if request.is_json:
                return {"json": request.get_json()}
            fields = list(request.form.items(multi=True))
            return {"fields": fields, "files": [(n, uploaded(f.read())) for n, f in request.files.items(multi=True)]}

    return read


def fastapi():
    import asyncio

    from fastapi import Body, FastAPI, Request
    from typing import Any

    app = FastAPI()
    loop = asyncio.new_event_loop()
    seen = {}

    @app.post("/json")
    async def document(body: Any = Body()):
        seen["json"] = body

    @app.post("/form")
    async def form(request: Request):
        async with request.form(max_fields=100000, max_files=100000) as items:
            seen["fields"] = [(n, v) for n, v in items.multi_items() if isinstance(v, str)]
            seen["files"] = [(n, uploaded(await v.read())) for n, v in items.multi_items() if not isinstance(v, str)]

    def call(path, kind, body):
        seen.clear()
        status = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                status.append(message["status"])

        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode(),
                 "query_string": b"", "root_path": "", "headers": [(b"content-type", kind.encode("latin-1"))], "client": ("x", 1), "server": ("x", 80)}
        try:
            loop.run_until_complete(app(scope, receive, send))
        except Exception as e:
            return {"error": repr(e)}
        return dict(seen) if status == [200] else {"error": f"status {status}"}

    def read(kind, body):
        if "json" in kind.lower():
            document = call("/json", kind, body)
            if not isinstance(document.get("json"), bytes):  # as which FastAPI hands over what is not JSON to it
                return document
        return call("/form", kind, body)

    return read


def django():
    from django.conf import settings

    settings.configure(DATA_UPLOAD_MAX_NUMBER_FIELDS=None, DATA_UPLOAD_MAX_NUMBER_FILES=None, DATA_UPLOAD_MAX_MEMORY_SIZE=None, ALLOWED_HOSTS=["*"],
                       INSTALLED_APPS=[], USE_TZ=True)
    import django as framework

    framework.setup()
    from django.core.handlers.wsgi import WSGIRequest
    from rest_framework.parsers import JSONParser
    from rest_framework.request import Request
    from rest_framework.exceptions import UnsupportedMediaType

    def read(kind, body):
        try:
            return {"json": Request(WSGIRequest(environ(kind, body)), parsers=[JSONParser()]).data}
        except UnsupportedMediaType:
            pass
        request = WSGIRequest(environ(kind, body))
        return {"fields": [(n, v) for n, l in request.POST.lists() for v in l], "files": [(n, uploaded(f.read())) for n, l in request.FILES.lists() for f in l]}

    return read


def main():
    read = {"flask": flask, "fastapi": fastapi, "django": django}[sys.argv[1]]()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            out = read(request["type"], base64.b64decode(request["body"]))
        except Exception as e:
            out = {"error": f"{type(e).__name__}: {e}"[:300]}
        print(json.dumps(out), flush=True)


main()
