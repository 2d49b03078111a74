"""Asks an application of each framework, line by line, where it redirects: FRAMEWORK, then {"method", "path"} on standard input.

The answer is {"status": 308, "location": "/docs/"}; the location's scheme and host are cut.
"""

import asyncio
import json
import sys
from urllib.parse import unquote, urlsplit


def by_wsgi(app, method, path):
    import io

    got = {}

    def start(status, headers, exc_info=None):
        got.update(status=int(status.split()[0]), location=dict((k.lower(), v) for k, v in headers).get("location"))

    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": unquote(path, "latin-1"), "SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_NAME": "app",
        "SERVER_PORT": "80", "HTTP_HOST": "app", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr, "wsgi.version": (1, 0), "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False,
    }
    b"".join(app(environ, start))
    return got


def by_asgi(app, method, path):
    got = {}

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            got.update(status=message["status"], location=dict(message["headers"]).get(b"location", b"").decode() or None)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": unquote(path), "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "server": ("app", 80), "headers": [(b"host", b"app")],
    }
    asyncio.run(app(scope, receive, send))
    return got


def flask():
    from flask import Flask

    app = Flask("redirects", static_folder=None)
    view = lambda **values: "x"
    app.add_url_rule("/docs/", "docs", view, methods=["GET", "POST"])
    app.add_url_rule("/plain", "plain", view)
    app.add_url_rule("/items/<int:id>/", "item", view)
    app.add_url_rule("/items/<int:id>/parts/<path:p>/", "part", view)
    app.add_url_rule("/loose/", "loose", view, strict_slashes=False)
    app.add_url_rule("/pages/", "pages", view, defaults={"page": 1})
    app.add_url_rule("/pages/<int:page>", "pages", view)
    app.add_url_rule("/moved", "moved", view, redirect_to="/docs/")
    app.add_url_rule("/only/post/", "only", view, methods=["POST"])
    return lambda method, path: by_wsgi(app, method, path)


def django():
    from django.conf import settings

    settings.configure(SECRET_KEY="x", ROOT_URLCONF="redirects_urls", ALLOWED_HOSTS=["*"], MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
    import types

    import django
    from django.http import HttpResponse
    from django.urls import path, re_path
    from django.views.decorators.common import no_append_slash
    from django.views.decorators.http import require_GET, require_POST

    view = lambda request, **values: HttpResponse("x")
    urls = types.ModuleType("redirects_urls")
    urls.urlpatterns = [
        path("docs/", view), path("plain", view), path("items/<int:id>/", require_GET(view)), path("items/<int:id>/parts/<path:p>/", view),
        re_path(r"^years/(?P<y>\d{4})/$", view), path("never/", no_append_slash(view)), path("only/post/", require_POST(view)),
    ]
    sys.modules["redirects_urls"] = urls
    django.setup()
    from django.core.wsgi import get_wsgi_application

    app = get_wsgi_application()
    return lambda method, path: by_wsgi(app, method, path)


def starlette():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def view(request):
        return PlainTextResponse("x")

    app = Starlette(routes=[
        Route("/docs/", view, methods=["GET", "POST"]), Route("/plain", view), Route("/items/{id:int}/", view),
        Mount("/sub", routes=[Route("/", view), Route("/in/", view), Route("/out", view)]), Route("/only/post/", view, methods=["POST"]),
        Route("/files/{p:path}", view),
    ])
    return lambda method, path: by_asgi(app, method, path)


ask = {"flask": flask, "django": django, "starlette": starlette}[sys.argv[1]]()
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = ask(request["method"], request["path"])
    except Exception as e:
        answer = {"status": 500, "location": None, "error": repr(e)}
    if answer.get("location"):
        answer["location"] = urlsplit(answer["location"]).path
    print(json.dumps(answer), flush=True)
