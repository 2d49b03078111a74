"""Flask applications with something in front of their routes."""

import elsewhere
from flask import Flask, Request, current_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix


def app(cls=Flask):
    made = cls("middleware_wsgi", static_folder=None)
    made.add_url_rule("/public", "public", lambda: "public")
    made.add_url_rule("/admin", "admin", lambda: "admin")
    return made


class Plain:
    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        print(environ["PATH_INFO"])
        environ["HTTP_X_SEEN"] = "1"
        return self.app(environ, start_response)


class Sets(Plain):
    def __call__(self, environ, start_response):
        environ["PATH_INFO"] = "/admin"
        return self.app(environ, start_response)


class ReverseProxied(Plain):
    def __call__(self, environ, start_response):
        script_name = environ.get("HTTP_X_SCRIPT_NAME", "")
        if script_name:
            environ["SCRIPT_NAME"] = script_name
            path_info = environ["PATH_INFO"]
            if path_info.startswith(script_name):
                environ["PATH_INFO"] = path_info[len(script_name):]
        return self.app(environ, start_response)


class Override(Plain):
    def __call__(self, environ, start_response):
        return self.app(dict(environ, REQUEST_METHOD="DELETE"), start_response)


class Slots:
    __slots__ = ("_wrapped",)

    def __init__(self, app):
        self._wrapped = app

    def __call__(self, env, start_response):
        env.update(PATH_INFO="/admin")
        return self._wrapped(env, start_response)


class OwnCall(Flask):
    def __call__(self, environ, start_response):
        environ["PATH_INFO"] = "/admin"
        return super().__call__(environ, start_response)


class OwnDispatch(Flask):
    def dispatch_request(self):
        return self.view_functions["admin"]()


class OwnRequest(Request):
    def __init__(self, environ, *args, **kwargs):
        environ["PATH_INFO"] = "/admin"
        super().__init__(environ, *args, **kwargs)


class WithRequest(Flask):
    request_class = OwnRequest


class HelpsElsewhere(Plain):
    def __call__(self, environ, start_response):
        elsewhere.to_admin_environ(environ)
        return self.app(environ, start_response)


class HelpsLate(Plain):
    def __call__(self, environ, start_response):
        import elsewhere as helpers

        helpers.to_admin_environ(environ)
        return self.app(environ, start_response)


class Fills(Plain):
    def __call__(self, environ, start_response):
        made = {}
        for name in environ:
            made[name] = environ[name]
        made["PATH_INFO"] = "/admin"
        return self.app(made, start_response)


class Headers(Plain):
    def __call__(self, environ, start_response):
        for name in ("X_A", "X_B"):
            environ["HTTP_" + name] = environ[f"shop.{name}"] = "1"
        return self.app(environ, start_response)


def held():
    made = app()

    @made.before_request
    def jump():
        view = current_app.view_functions["admin"]
        return view()

    return made


def around(*layers, cls=Flask):
    made = app(cls)
    for layer in layers:
        made.wsgi_app = layer(made.wsgi_app)
    return made


def closure(wrapped):
    def application(environ, start_response):
        environ["PATH_INFO"] = "/admin"
        return wrapped(environ, start_response)

    return application


def hooked():
    made = app()

    @made.before_request
    def jump():
        return current_app.view_functions["admin"]()

    return made


class Switch(Plain):
    def __init__(self, app, other):
        self.app, self.other = app, other

    def __call__(self, environ, start_response):
        return (self.other if environ.get("HTTP_X") else self.app)(environ, start_response)


def switched():
    made, other = app(), app()
    made.wsgi_app = Switch(made.wsgi_app, other)
    return made


def dispatched():
    made, other = app(), app()
    made.wsgi_app = ProxyFix(DispatcherMiddleware(made.wsgi_app, {"/sub": other, "/odd": Sets(app()), "/foreign": foreign}))
    return made


def foreign(environ, start_response):
    start_response("200 OK", [])
    return [b"foreign"]


CHANGED = {
    "sets": lambda: around(Sets), "deep": lambda: around(Sets, Plain, ProxyFix, Plain), "proxied": lambda: around(ReverseProxied),
    "override": lambda: around(Override), "slots": lambda: around(Slots), "own call": lambda: app(OwnCall), "own dispatch": lambda: app(OwnDispatch),
    "closure": lambda: around(closure), "hooked": hooked, "switched": switched, "outside": lambda: Plain(Sets(app())), "closure outside": lambda: closure(app()),
    "own request": lambda: app(WithRequest), "helps elsewhere": lambda: around(HelpsElsewhere), "helps late": lambda: around(HelpsLate),
    "fills": lambda: around(Fills), "held": held,
}
SAME = {"bare": app, "headers": lambda: around(Headers), "plain": lambda: around(Plain), "proxy fix": lambda: around(ProxyFix, Plain), "outside": lambda: ProxyFix(Plain(app()))}


def everything():
    """All of them in one, each below its name."""
    kinds = {"changed": CHANGED, "same": SAME}
    mounts = {f"/{kind}/{name.replace(' ', '-')}": f() for kind, all in kinds.items() for name, f in all.items()}
    return DispatcherMiddleware(app(), mounts)


def hosts(x_host):
    made = Flask("middleware_wsgi", static_folder=None, host_matching=True)
    made.add_url_rule("/public", "public", lambda: "public", host="<sub>.example.com")
    made.wsgi_app = ProxyFix(Plain(made.wsgi_app), x_host=x_host)
    return made


def outside():
    return closure(DispatcherMiddleware(app(), {"/sub": app(), "/foreign": foreign}))
