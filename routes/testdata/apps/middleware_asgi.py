"""Applications with something in front of their routes, each a factory: what must be found out about it is its name."""

import contextvars
from functools import partial

import elsewhere
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router


async def page(request):
    return PlainTextResponse("page")


ROUTES = [Route("/public", page), Route("/admin", page)]


class Plain:
    """Looks at requests and changes none."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            log = {"path": scope["path"]}
            log["method"] = scope["method"]
            extra = dict(path=scope["path"], method=scope["method"])
            print(log, extra)
        scope["state"] = {}
        await self.app(scope, receive, send)


class Sets(Plain):
    async def __call__(self, scope, receive, send):
        scope["path"] = "/admin"
        await self.app(scope, receive, send)


class Copies(Plain):
    async def __call__(self, s, r, w):
        await self.app({**s, "path": "/admin"}, r, w)


class Dicts(Plain):
    async def __call__(self, scope, receive, send):
        await self.app(dict(scope, path="/admin"), receive, send)


class Updates(Plain):
    async def __call__(self, scope, receive, send):
        scope = dict(scope)
        scope.update({"path": "/admin", "raw_path": b"/admin"})
        await self.app(scope, receive, send)


class Joins(Plain):
    async def __call__(self, scope, receive, send):
        await self.app(scope | {"path": "/admin"}, receive, send)


def rewrite(scope):
    scope["root_path"] = "/x"


class Helps(Plain):
    async def __call__(self, scope, receive, send):
        rewrite(scope)
        await self.app(scope, receive, send)


class HelpsElsewhere(Plain):
    async def __call__(self, scope, receive, send):
        elsewhere.to_admin(scope)
        await self.app(scope, receive, send)


class HelpsLate(Plain):
    async def __call__(self, scope, receive, send):
        from elsewhere import to_admin as move

        move(scope)
        await self.app(scope, receive, send)


class Fills(Plain):
    async def __call__(self, scope, receive, send):
        made = {}
        made.update(scope)
        made["path"] = "/admin"
        await self.app(made, receive, send)


class Writes(Plain):
    async def __call__(self, scope, receive, send):
        await self.app({"type": scope["type"], "path": "/admin", "method": "GET", "headers": [], "query_string": b""}, receive, send)


PATH = "path"


class ByConstant(Plain):
    async def __call__(self, scope, receive, send):
        scope[PATH] = "/admin"
        await self.app(scope, receive, send)


class ByLoop(Plain):
    async def __call__(self, scope, receive, send):
        for key, value in self.moved(scope).items():
            scope[key] = value
        await self.app(scope, receive, send)

    def moved(self, scope):
        return {"path": "/admin"}


class Merges(Plain):
    async def __call__(self, scope, receive, send):
        scope.update(self.moved(scope))
        await self.app(scope, receive, send)

    def moved(self, scope):
        return dict(path="/admin")


class SetsItem(Plain):
    async def __call__(self, scope, receive, send):
        dict.__setitem__(scope, "path", "/admin")
        await self.app(scope, receive, send)


class OwnKeys(Plain):
    KEY = "shop.tenant"

    async def __call__(self, scope, receive, send):
        scope[self.KEY] = scope[STATE] = elsewhere.notes(scope)
        headers = {}
        for name, value in scope["headers"]:
            headers[name] = value
        await self.app(scope, receive, send)


STATE = "shop.state"


class ByVersion(Route):
    def matches(self, scope):
        return super().matches({**scope, "path": "/public"})


def by_version():
    return Starlette(routes=[ByVersion("/public", page), Route("/admin", page)])


def built():
    made = app()
    build = made.build_middleware_stack
    made.build_middleware_stack = lambda: Sets(build())
    return made


class Override(Plain):
    async def __call__(self, scope, receive, send):
        scope["method"] = "DELETE"
        await self.app(scope, receive, send)


class Hidden:
    """Keeps its application under a name that nobody else uses."""

    def __init__(self, app):
        self._secret_inner = [app]

    async def __call__(self, scope, receive, send):
        scope["path"] = "/admin"
        await self._secret_inner[0](scope, receive, send)


def closure(app):
    async def wrapped(scope, receive, send):
        scope["path"] = "/admin"
        await app(scope, receive, send)

    return wrapped


def plain_closure(app):
    async def wrapped(scope, receive, send):
        await app(scope, receive, send)

    return wrapped


class Switch(Plain):
    def __init__(self, app, other):
        self.app, self.other = app, other

    async def __call__(self, scope, receive, send):
        await (self.other if scope["headers"] else self.app)(scope, receive, send)


class ByHost(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        request.scope["path"] = "/admin"
        return await call_next(request)


async def passes(request, call_next):
    return await call_next(request)


async def again(request, call_next):
    return await call_next(Request({**request.scope, "path": "/admin"}, request.receive))


class OwnCall(Starlette):
    async def __call__(self, scope, receive, send):
        scope["path"] = "/admin"
        await super().__call__(scope, receive, send)


class OwnRouter(Router):
    async def app(self, scope, receive, send):
        scope["path"] = "/admin"
        await super().app(scope, receive, send)


def app(*middleware, **options):
    return Starlette(routes=list(ROUTES), middleware=[Middleware(*m) if isinstance(m, tuple) else Middleware(m) for m in middleware], **options)


def own_router():
    made = app()
    made.router = OwnRouter(routes=list(ROUTES))
    return made


def decorated(dispatch):
    made = app()
    made.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    return made


def mounted(inner):
    return Starlette(routes=[Route("/public", page), Mount("/sub", inner)])


def wsgi():
    from a2wsgi import WSGIMiddleware

    flask = Flask("inner")
    flask.add_url_rule("/x", "x", lambda: "x")
    return Starlette(routes=[Route("/public", page), Mount("/flask", WSGIMiddleware(flask))])


CHANGED = {
    "sets": lambda: app(Sets), "copies": lambda: app(Copies), "dicts": lambda: app(Dicts), "updates": lambda: app(Updates),
    "joins": lambda: app(Joins), "helps": lambda: app(Helps), "override": lambda: app(Override), "around": lambda: Sets(app()),
    "twice around": lambda: Plain(Plain(Sets(Plain(app())))), "hidden": lambda: Hidden(app()), "closure": lambda: closure(app()),
    "closure in closure": lambda: plain_closure(plain_closure(closure(app()))), "partial": lambda: partial(closure(app())),
    "switch": lambda: Switch(app(), app()), "by host": lambda: app(ByHost), "again": lambda: decorated(again),
    "own call": lambda: OwnCall(routes=list(ROUTES)), "own router": own_router, "behind": lambda: app(Plain, (CORSMiddleware,), Sets),
    "other in options": lambda: app_with_other(), "helps elsewhere": lambda: app(HelpsElsewhere), "helps late": lambda: app(HelpsLate),
    "fills": lambda: app(Fills), "writes": lambda: app(Writes), "by constant": lambda: app(ByConstant), "by loop": lambda: app(ByLoop),
    "merges": lambda: app(Merges), "sets item": lambda: app(SetsItem), "by version": by_version, "built": built,
}
SAME = {
    "plain": lambda: app(Plain), "cors": lambda: app(CORSMiddleware), "passes": lambda: decorated(passes), "around": lambda: Plain(app()),
    "plain closure": lambda: plain_closure(app()), "bare": app, "own keys": lambda: app(OwnKeys),
}
BELOW = {  # only what is mounted
    "mounted": lambda: mounted(Sets(Starlette(routes=list(ROUTES)))), "mounted middleware": lambda: mounted(app(Sets)),
    "mount middleware": lambda: Starlette(routes=[Route("/public", page), Mount("/sub", routes=list(ROUTES), middleware=[Middleware(Sets)])]),
}


def app_with_other():
    made = app()
    made.add_middleware(Switch, other=app())
    return made


def everything():
    """All of them in one, each below its name."""
    kinds = {"changed": CHANGED, "same": SAME, "below": BELOW}
    return Starlette(routes=[Mount(f"/{kind}/{name.replace(' ', '-')}", f()) for kind, all in kinds.items() for name, f in all.items()])


def outside():
    return plain_closure(closure(app()))
