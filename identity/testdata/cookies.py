"""Asks the real frameworks which cookies they read: one JSON list of strings (the lines of the Cookie header, Latin-1 of the bytes as
sent) a line, answered with what Flask, Starlette, and Django by WSGI and by ASGI have for the name in the first argument and its
chunks: {name: value}, or null where the framework fails. A WSGI server joins lines with "; " or ",", an ASGI server hands them on."""

import io
import json
import sys

from django.conf import settings

settings.configure()

from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from starlette.requests import Request as StarletteRequest
from werkzeug.wrappers import Request as WerkzeugRequest

NAMES = [sys.argv[1]] + [f"{sys.argv[1]}_{i}" for i in range(12)]


def attempt(read):
    try:
        cookies = read()
    except Exception:
        return None
    return {name: cookies[name] for name in NAMES if name in cookies}


def environ(cookie):
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_NAME": "x", "SERVER_PORT": "80", "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(), "HTTP_COOKIE": cookie}


def scope(lines):
    headers = [(b"cookie", line.encode("latin1")) for line in lines]
    return {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}


for line in sys.stdin:
    lines = json.loads(line)
    answer = {
        "starlette": attempt(lambda: StarletteRequest(scope(lines)).cookies),
        "django-asgi": attempt(lambda: ASGIRequest(scope(lines), io.BytesIO()).COOKIES),
    }
    for how, joint in {"": "; ", ", joined": ","}.items():
        answer["flask" + how] = attempt(lambda: WerkzeugRequest(environ(joint.join(lines))).cookies)
        answer["django" + how] = attempt(lambda: WSGIRequest(environ(joint.join(lines))).COOKIES)
    print(json.dumps(answer), flush=True)
