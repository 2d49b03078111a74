"""Asks the real frameworks how they read a query: one JSON string (Latin-1 of the bytes as sent) a line, answered with the
parameters that Flask, Starlette, and Django by WSGI and by ASGI have, each a list of [name, value] in the order sent, or null
where the framework fails."""

import json
import sys

from django.conf import settings

settings.configure(DATA_UPLOAD_MAX_NUMBER_FIELDS=100000)

from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from starlette.requests import Request as StarletteRequest
from werkzeug.wrappers import Request as WerkzeugRequest
import io


def attempt(read):
    try:
        return [list(pair) for pair in read()]
    except Exception:
        return None


def environ(query):
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": query, "SERVER_NAME": "x", "SERVER_PORT": "80",
            "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO()}


def scope(query):
    return {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": query.encode("latin1")}


def items(mapping):
    return [(name, value) for name, values in mapping.lists() for value in values]


for line in sys.stdin:
    query = json.loads(line)
    print(json.dumps({
        "flask": attempt(lambda: WerkzeugRequest(environ(query)).args.items(multi=True)),
        "starlette": attempt(lambda: StarletteRequest(scope(query)).query_params.multi_items()),
        "django": attempt(lambda: items(WSGIRequest(environ(query)).GET)),
        "django-asgi": attempt(lambda: items(ASGIRequest(scope(query), io.BytesIO()).GET)),
    }), flush=True)
