"""Prints an application's routes as the data of a routes.yaml, without serving it.

Runs with the application's own Python, behind chain.py, methods.py and django.py: python -c ALL FRAMEWORK TARGET [TRUSTED...]. The answer is one line of JSON on file
descriptor 3, so that whatever the application prints while it is imported can't be mistaken for it:
{"table": {...}, "notes": [...]} or {"error": "...", "missing": "module that is not there", "where": "...", "traceback": [...]}.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import traceback


LIBRARY = os.path.dirname(os.__file__)
TRUST = []  # middleware that its keeper vouches for


class Problem(Exception):
    """Something about the target that its user can put right."""


def main():
    framework, target = sys.argv[1:3]
    TRUST.extend(sys.argv[3:])
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    notes = []
    try:
        read = {"flask": flask_table, "fastapi": asgi_table, "django": django_table}[framework]
        answer = {"table": read(target, notes), "notes": notes, "facts": FACTS}
    except Problem as e:
        answer = {"error": str(e)}
    except (Exception, SystemExit) as e:
        frames = traceback.extract_tb(e.__traceback__)
        outside = [f for f in frames if f.filename != "<string>" and not f.filename.startswith("<frozen")]
        own = [f for f in outside if "site-packages" not in f.filename and not f.filename.startswith(LIBRARY)] or outside
        where = f"{own[-1].filename}:{own[-1].lineno}" if own else ""
        if isinstance(e, SyntaxError) and e.filename:
            where = f"{e.filename}:{e.lineno}"
        lines = "".join(traceback.format_exception(type(e), e, e.__traceback__)).splitlines()
        first = str(e).splitlines()[0] if str(e) else ""
        answer = {"error": f"{type(e).__name__}: {first}".rstrip(": "), "where": where, "traceback": lines[-6:]}
        if isinstance(e, ModuleNotFoundError) and e.name:
            answer["missing"] = e.name
    with os.fdopen(3, "w", encoding="utf-8", errors="backslashreplace") as out:
        json.dump(answer, out, ensure_ascii=False)
    sys.stdout.flush()
    os._exit(0)  # threads that the application started must not keep us


def load(target, default):
    """Import MODULE:NAME, MODULE:NAME() or MODULE:NAME(args); args are literals."""
    module, _, name = target.partition(":")
    value = importlib.import_module(module)
    try:
        node = ast.parse(name or default, mode="eval").body
    except SyntaxError:
        raise Problem(f"{name!r} is neither a name nor a call") from None
    args, kwargs, called = [], {}, False
    if isinstance(node, ast.Call):
        try:
            args = [ast.literal_eval(a) for a in node.args]
            kwargs = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
        except ValueError:
            raise Problem(f"{name!r}: arguments must be plain values") from None
        node, called = node.func, True
    for part in ast.unparse(node).split("."):
        if not hasattr(value, part):
            raise Problem(f"module {module!r} has no {part!r}")
        value = getattr(value, part)
    return value(*args, **kwargs) if called else value


def made(app):
    """The application of a factory that was named without its brackets."""
    if inspect.isroutine(app):
        try:
            inspect.signature(app).bind()
        except (TypeError, ValueError):
            return app  # takes arguments: an application in itself
        return app()
    return app


def methods_text(methods):
    """GET first, then what a reader looks for, then the rest."""
    order = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    known = [m for m in order if m in methods]
    return ", ".join(known + sorted(set(methods) - set(order))) or "ANY"


def entry(key, methods, template, **more):
    head = "ANY" if methods is None else methods_text(methods)
    made = {key: f"{head} {template}" if template else head}
    made.update({k: v for k, v in more.items() if v not in (None, "", [], {})})
    return made


# Flask


def flask_table(target, notes):
    os.environ["FLASK_RUN_FROM_CLI"] = "true"  # app.run() outside of a main guard does nothing then
    app = load(target, "app")
    outer = app = made(app)
    app, mounts, reasons = wsgi_application(app, notes)
    if app is None and not mounts:
        raise Problem(f"{target!r} is no Flask application, and none was found in it")
    table = {"framework": "flask", "source": f"flask {target}"}
    main = app or next((m for m, _ in mounts.values() if m is not None), None)
    if main is None:
        raise Problem(f"{target!r}: no Flask application was found in it")
    url_map = main.url_map
    learn(facts_flask, main)
    for key in ("strict_slashes", "merge_slashes", "redirect_defaults"):
        if not getattr(url_map, key):
            table[key] = False
    if url_map.host_matching:
        table["host_matching"] = True
    elif getattr(main, "subdomain_matching", False) and main.config.get("SERVER_NAME"):
        table["subdomain_matching"] = main.config["SERVER_NAME"]
    if (url_map.host_matching or "subdomain_matching" in table) and hosts_elsewhere(outer, main):
        reasons.append("ProxyFix (x_host) takes the host from X-Forwarded-Host, by which the routes are chosen, and the table is asked by Host")
    root = (main.config.get("APPLICATION_ROOT") or "/").rstrip("/")
    if root:
        notes.append(
            f"APPLICATION_ROOT is {root!r}. Flask does not route by it: if the server sets SCRIPT_NAME to it, "
            f"add root_path: {root}"
        )
    converters = {}
    table["routes"] = unknowable(reasons) + (flask_routes(app, url_map, converters, notes) if app else [])
    for prefix, (mounted, why) in sorted(mounts.items()):
        if isinstance(why, str):  # another framework's
            notes.append(f"{prefix}: {why} is mounted there, whose routes are not known: one route stands for all of them")
            routes = unknowable(reasons) + [entry("route", None, "/<path:path>"), "ANY /"]
        else:
            routes = unknowable(reasons + why) + flask_routes(mounted, url_map, converters, notes)
        table["routes"].append({"mount": prefix, "routes": routes})
    if converters:
        table["converters"] = converters
    return table


def hosts_elsewhere(outer, app):
    """Whether the application's host is the one of a header that any client can send."""
    from werkzeug.middleware.proxy_fix import ProxyFix

    is_app = lambda v: v is app
    found = [*layers(outer, is_app, is_wsgi)[0], *(layers(vars(app)["wsgi_app"], is_app, is_wsgi)[0] if "wsgi_app" in vars(app) else [])]
    return any(isinstance(v, ProxyFix) and v.x_host for v in found)


def flask_rules(url_map):
    """In an order that gives the same matcher: Werkzeug keeps the order only inside its states."""
    url_map.update()
    matcher = getattr(url_map, "_matcher", None)
    if matcher is None:
        raise Problem("this Werkzeug is older than 2.2 and matches in another way")
    rules = []

    def walk(state):
        rules.extend(state.rules)
        for static in state.static.values():
            walk(static)
        for _, dynamic in state.dynamic:
            walk(dynamic)

    walk(matcher._root)
    return rules


def flask_routes(app, url_map, converters, notes):
    routes = []
    for rule in flask_rules(app.url_map):
        methods, automatic = None, True
        if rule.websocket:
            methods = {"WEBSOCKET"}
        elif rule.methods is not None:
            methods = set(rule.methods)
            if "GET" in methods:
                methods.discard("HEAD")
            automatic = "OPTIONS" in methods
            if getattr(rule, "provide_automatic_options", False) and len(methods) > 1:
                methods.discard("OPTIONS")
        host = rule.host if app.url_map.host_matching else rule.subdomain
        made = entry(
            "route", methods, flask_template(app.url_map, rule, converters, notes),
            name=rule.endpoint, host=host, defaults=flask_defaults(rule),
        )
        for key in ("strict_slashes", "merge_slashes"):
            if getattr(rule, key) != getattr(url_map, key):
                made[key] = getattr(rule, key)
        if not automatic:
            made["automatic_options"] = False
        if rule.alias or rule.redirect_to is not None:
            made["redirects"] = True
        routes.append(made)
    return routes


def flask_defaults(rule):
    return {k: v if isinstance(v, (str, int, float, bool)) else None for k, v in (rule.defaults or {}).items()}


def flask_template(url_map, rule, converters, notes):
    """The rule's text. A converter of the application's own is named after its instance where it takes arguments."""
    from werkzeug.routing import converters as builtin

    part = re.compile(r"<(?:([a-zA-Z_][a-zA-Z0-9_]*)(?:\((.*?)\))?:)?([a-zA-Z_][a-zA-Z0-9_]*)>")

    def own(match):
        name, arguments, variable = match.group(1) or "default", match.group(2), match.group(3)
        cls = url_map.converters.get(name)
        if cls is None or cls is builtin.DEFAULT_CONVERTERS.get(name):
            return match.group(0)
        instance = rule._converters[variable]
        spec = {"regex": instance.regex}
        if instance.weight != 100:
            spec["weight"] = instance.weight
        if instance.part_isolating != ("/" not in instance.regex):
            spec["part_isolating"] = instance.part_isolating
        if cls.to_python is not builtin.BaseConverter.to_python:
            remark(notes, f"converter {name!r} has a to_python of its own: the application answers 404 to values that it refuses")
        if arguments:
            name = register(converters, name, spec)
        else:
            converters[name] = spec
        return f"<{name}:{variable}>" if match.group(1) else f"<{variable}>"

    return part.sub(own, rule.rule)


def register(converters, name, spec):
    number = 1
    while converters.get(f"{name}_{number}", spec) != spec:
        number += 1
    converters[f"{name}_{number}"] = spec
    return f"{name}_{number}"


def remark(notes, text):
    if text not in notes:
        notes.append(text)


# Starlette and FastAPI


def asgi_table(target, notes):
    try:
        import uvicorn

        uvicorn.run = lambda *args, **kwargs: None  # an application that serves itself when imported does not
    except ImportError:
        pass
    import starlette.routing as starlette

    app = load(target, "app")
    app = made(app)
    learn(facts_asgi, app)
    reasons = []
    app = asgi_application(app, reasons, notes)
    if not hasattr(app, "routes"):
        raise Problem(f"{target!r} is a {type(app).__name__}, neither a Starlette nor a FastAPI application")
    explicit = [False]
    routes = asgi_routes(app, starlette, notes, explicit)
    framework = "fastapi" if explicit[0] else "starlette"
    if framework == "starlette":
        drop_automatic_head(routes)
    table = {"framework": framework, "source": f"fastapi {target}"}
    if getattr(app, "root_path", ""):
        table["root_path"] = app.root_path
    if not router_of(app).redirect_slashes:
        table["redirect_slashes"] = False
    converters = asgi_converters(notes)
    if converters:
        table["converters"] = converters
    table["routes"] = unknowable(reasons + asgi_middleware(app, notes)) + routes
    if any_socket(routes) and not any(map(importable, ("websockets", "wsproto", "daphne", "hypercorn", "granian"))):
        notes.append("no package that serves WebSockets is installed: such a server answers the request as a GET")
    return table


def any_socket(routes):
    for r in routes:
        if isinstance(r, str) and r.startswith("WEBSOCKET"):
            return True
        if isinstance(r, dict) and (str(r.get("route") or r.get("re_path") or "").startswith("WEBSOCKET") or any_socket(r.get("routes", []))):
            return True
    return False


def importable(name):
    return importlib.util.find_spec(name) is not None


def router_of(app):
    return getattr(app, "router", app)


def asgi_converters(notes):
    from starlette import convertors

    builtin = {
        "str": "StringConvertor", "path": "PathConvertor", "int": "IntegerConvertor", "float": "FloatConvertor",
        "uuid": "UUIDConvertor",
    }
    found = {}
    for name, convertor in convertors.CONVERTOR_TYPES.items():
        if type(convertor) is not getattr(convertors, builtin.get(name, ""), None):
            found[name] = {"regex": convertor.regex}
    return found


def drop_automatic_head(routes):
    """starlette adds HEAD to GET by itself, so it needs no saying."""
    for i, route in enumerate(routes):
        if "routes" in route:
            drop_automatic_head(route["routes"])
        elif "route" in route:
            route["route"] = route["route"].replace("GET, HEAD", "GET", 1)


def asgi_routes(app, starlette, notes, explicit):
    routes = []
    router = router_of(app)
    for route in router.routes:
        asgi_route(route, starlette, notes, explicit, routes)
    low = getattr(router, "_iter_low_priority_routes", None)
    if low is not None:
        routes.extend(frontends(low(), notes))
    return routes


def asgi_route(route, starlette, notes, explicit, out):
    own = replaced(type(route), "matches", "handle", "__call__")
    if own:
        out.append(entry("route", None, "/", unsupported="; ".join(own) + ": which requests it takes cannot be known from the table"))
        return
    if hasattr(route, "effective_candidates"):  # FastAPI's include_router
        for candidate in route.effective_candidates():
            asgi_route(candidate, starlette, notes, explicit, out)
        return
    if hasattr(route, "original_route") and hasattr(route, "starlette_route"):
        if route.starlette_route is not None:
            asgi_route(route.starlette_route, starlette, notes, explicit, out)
            return
        if isinstance(route.original_route, starlette.WebSocketRoute):
            out.append(entry("route", {"WEBSOCKET"}, route.path, name=route.name))
            return
        explicit[0] = True
        out.append(asgi_leaf(route, route.original_route))
    elif isinstance(route, starlette.Mount):
        out.extend(asgi_mount(route, starlette, notes, explicit))
    elif isinstance(route, starlette.Host):
        reasons = []
        app = asgi_application(route.app, reasons, notes)
        if isinstance(router_of(app), starlette.Router):
            inner_routes = unknowable(reasons + asgi_middleware(app, notes)) + asgi_routes(app, starlette, notes, explicit)
        else:
            notes.append(f"{route.host}: {described(app)} has this host, whose routes are not known: one route stands for all of them")
            inner_routes = [entry("route", None, "/{path:path}", name=route.name), entry("route", {"WEBSOCKET"}, "/{path:path}", name=route.name)]
        out.append(flags_of(app, {"host_mount": route.host, "routes": inner_routes}))
    elif isinstance(route, starlette.WebSocketRoute):
        out.append(entry("route", {"WEBSOCKET"}, route.path, name=route.name))
    elif isinstance(route, starlette.Route):
        if type(route) is not starlette.Route:
            explicit[0] = True
        out.append(asgi_leaf(route, route))
    else:
        path = getattr(route, "path", "/")
        why = f"a {type(route).__name__} is no kind of route that is known here"
        out.append(entry("route", None, path, unsupported=why))


def flags_of(app, group):
    router = router_of(app)
    if not getattr(router, "redirect_slashes", True):
        group["redirect_slashes"] = False
    if getattr(app, "root_path", ""):
        group["root_path"] = app.root_path
    return group


def asgi_mount(route, starlette, notes, explicit):
    reasons = []
    app = asgi_application(route.app, reasons, notes, getattr(route, "_base_app", None))
    if isinstance(router_of(app), starlette.Router):
        routes = unknowable(reasons + asgi_middleware(app, notes)) + asgi_routes(app, starlette, notes, explicit)
        return [flags_of(app, {"mount": route.path or "/", "routes": routes})]
    template, name = route.path + "/{path:path}", route.name or type(app).__name__
    made = [entry("route", None, template, name=name)]
    if not inert(app):
        notes.append(f"{route.path or '/'}: {described(app)} is mounted there, whose routes are not known: one route stands for all of them")
        if type(app).__name__ != "WSGIMiddleware":
            made.append(entry("route", {"WEBSOCKET"}, template, name=name))
    return made


def inert(app):
    """Static files: whatever is below the mount is a file."""
    from starlette.staticfiles import StaticFiles

    return isinstance(app, StaticFiles)


def asgi_leaf(route, original):
    tags = [getattr(t, "value", t) for t in getattr(route, "tags", None) or []]
    methods, exclusive = route.methods or None, False
    if methods is None:
        allowed = endpoint_methods(original.endpoint)
        if allowed:
            methods, exclusive = allowed, True
    return entry("route", methods, route.path, name=route.name, tags=tags, exclusive=exclusive or None)


def endpoint_methods(endpoint):
    """An HTTPEndpoint takes every method and answers 405 itself."""
    from starlette.endpoints import HTTPEndpoint

    if not (isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint)):
        return None
    for name in ("dispatch", "method_not_allowed", "__await__", "__getattr__", "__getattribute__"):
        if getattr(endpoint, name, None) is not getattr(HTTPEndpoint, name, None):
            return None  # its own code decides
    own = {n for n in dir(endpoint) if re.fullmatch("[a-z]+", n) and not hasattr(HTTPEndpoint, n)}  # whatever the method is called
    allowed = {n.upper() for n in own if callable(getattr(endpoint, n))}
    return allowed | {"HEAD"} if "GET" in allowed else allowed


def frontends(low, notes):
    """FastAPI's frontend(): tried after everything else, the longest path first."""
    found = []
    for group in low:
        prefix = getattr(group, "frontend_prefix", "")
        original = getattr(group, "original_route", group)
        if not hasattr(original, "routes"):
            notes.append(f"{getattr(original, 'path', '?')}: a low-priority route is left out")
            continue
        for route in original.routes:
            path = prefix if prefix and route.path == "/" else prefix + route.path
            found.append(path.rstrip("/"))
    made = []
    for path in sorted(found, key=len, reverse=True):
        if path:
            made.append(entry("route", {"GET", "HEAD"}, path, name="frontend", fallback=True))
        made.append(entry("route", {"GET", "HEAD"}, path + "/{path:path}", name="frontend", fallback=True))
    return made


# What is in front of the routers


def unknowable(reasons):
    """The entry that refuses everything, where something in front may change which route is taken."""
    if not reasons:
        return []
    return [entry("route", None, "/", unsupported="; ".join(reasons[:4]) + ": which route a request takes cannot be known from the table")]


def described(app):
    thing = app if inspect.isroutine(app) or inspect.isclass(app) else type(app)
    return f"{thing.__module__}.{thing.__qualname__}"


def judge(layer, reasons, notes):
    """Adds why a layer may change the route, or the note that it may answer by itself."""
    found = changes(layer, TRUST)
    reasons.extend(f for f in found if f not in reasons)
    if not found and not trusted(layer, TRUST) and any(reads_path(f) for f in functions_of(layer)):
        remark(notes, f"{described(layer)} looks at the path: what it answers by itself is decided by the rule of the route that has this path")


def reads_path(f):
    code = f.__code__
    words = set(code.co_names) | {c for c in code.co_consts if isinstance(c, str)}
    return bool(words & {"PATH_INFO", "path", "path_info", "raw_path", "full_path", "get_full_path"})


def takes(thing, *names):
    """Whether an object is called with parameters of these names, in this order."""
    try:
        call = thing if inspect.isroutine(thing) else type(thing).__call__
        params = [p for p in inspect.signature(call).parameters if p != "self"]
    except (TypeError, ValueError, AttributeError):
        return False
    return params[: len(names)] == list(names)


def is_wsgi(thing):
    return has(thing, "url_map") or takes(thing, "environ", "start_response") or takes(thing, "env", "start_response")


def is_asgi(thing):
    return has(thing, "routes") and callable(thing) or takes(thing, "scope", "receive", "send")


def wsgi_application(outer, notes):
    """The Flask application behind whatever is around it, what is mounted beside it ({prefix: (app, reasons or a name)}), and why the
    table can't be known."""
    is_flask = lambda v: has(v, "url_map") and has(v, "view_functions")
    mounts, reasons, passed, thing = {}, [], [], outer
    while True:
        way, found, others = layers(thing, lambda v: is_flask(v) or has(v, "mounts") and has(v, "app"), is_wsgi)
        passed.extend(way if found is not None else [])
        reasons.extend(several(others, found, is_flask, is_wsgi))
        if found is None or is_flask(found):
            break
        for prefix, mounted in found.mounts.items():
            if not any(prefix == p or prefix.startswith(p + "/") for p in mounts):
                mounts[prefix] = mounted_wsgi(mounted, notes)
        thing = found.app
    for layer in passed:
        judge(layer, reasons, notes)
    if found is None:
        return None, mounts, reasons
    app = found
    for name in ("__call__", "dispatch_request", "full_dispatch_request", "preprocess_request", "create_url_adapter", "wsgi_app"):
        method = getattr(type(app), name, None)
        if inspect.isfunction(method) and not known(method.__globals__.get("__name__")):
            what = changes(method, TRUST)
            if not what and name in ("dispatch_request", "full_dispatch_request", "create_url_adapter") and not trusted(method, TRUST):
                what = [f"{full_name(method)} replaces Flask's own"]
            reasons.extend(what)
    judge(app.request_class, reasons, notes)
    for cls in {type(app.url_map), *map(type, app.url_map.iter_rules())}:
        reasons.extend(replaced(cls, "bind", "bind_to_environ", "merge", "match", "compile", "get_converter"))
    for hooks in app.before_request_funcs.values():
        for hook in hooks:
            reasons.extend(w for w in changes(hook, TRUST) if w not in reasons)
    if "wsgi_app" in vars(app):
        wrapped = vars(app)["wsgi_app"]
        way, end, others = layers(wrapped, lambda v: v is app or has(v, "mounts") and has(v, "app"), is_wsgi)
        while end is not None and end is not app:  # a dispatcher
            for prefix, mounted in end.mounts.items():
                mounts.setdefault(prefix, mounted_wsgi(mounted, notes))
            more, end, rest = layers(end.app, lambda v: v is app or has(v, "mounts") and has(v, "app"), is_wsgi)
            way, others = way + more, others + rest
        reasons.extend(several(others, app, is_flask, is_wsgi))
        for layer in way:
            judge(layer, reasons, notes)
        if end is None:
            reasons.append(f"wsgi_app is {described(wrapped)}, and Flask's own was not found in it")
    return app, mounts, reasons


def replaced(cls, *names):
    """Which of a framework's functions a class has in its own version, so that its routes may match otherwise than they say."""
    found = [getattr(cls, n, None) for n in names]
    own = [f for f in found if inspect.isfunction(f) and not known(f.__globals__.get("__name__")) and not trusted(f, TRUST)]
    return [f"{full_name(f)} replaces the framework's own" for f in own if not trusted(cls, TRUST)]


def several(others, router, is_router, is_app):
    """What a layer may hand requests to beside the way that was followed."""
    out = []
    for where, thing, layer in others:
        if thing is router or layers(thing, lambda v: v is router, is_app)[1] is router or trusted(layer, TRUST):
            continue
        if inspect.isfunction(thing) and known(thing.__module__):
            continue
        out.append(f"{described(layer)} hands requests to another application as well ({where}: {described(thing)})")
    return out


def mounted_wsgi(mounted, notes):
    app, inner_mounts, why = wsgi_application(mounted, notes)
    if app is None:
        return None, described(mounted)
    if inner_mounts:
        why = why + ["an application that is mounted in a mounted one"]
    return app, why


def asgi_application(outer, reasons, notes, end=None):
    """The Starlette or FastAPI application behind what is around it, or outer's innermost where there is none."""
    is_router = (lambda v: v is end) if end is not None else (lambda v: has(v, "routes") and not inspect.isroutine(v))
    if is_router(outer):
        return outer if end is None else asgi_application(outer, reasons, notes)
    way, found, others = layers(outer, is_router, is_asgi)
    if found is None:
        return end if end is not None else outer
    for layer in way:
        judge(layer, reasons, notes)
    reasons.extend(several(others, found, is_router, is_asgi))
    return found if end is None else asgi_application(found, reasons, notes)


def asgi_middleware(app, notes):
    """Why the middleware of a Starlette or FastAPI application may change the route."""
    reasons = []
    for cls in (type(app), type(router_of(app))):
        for name in ("__call__", "app", "handle"):
            method = getattr(cls, name, None)
            if inspect.isfunction(method) and not known(method.__globals__.get("__name__")):
                reasons.extend(changes(method, TRUST) or ([] if trusted(method, TRUST) else [f"{full_name(method)} replaces the framework's own"]))
    if "build_middleware_stack" in getattr(app, "__dict__", {}):
        judge(app.build_middleware_stack, reasons, notes)
    for m in getattr(app, "user_middleware", []):
        judge(m.cls, reasons, notes)
        values = [*getattr(m, "args", ()), *(getattr(m, "kwargs", None) or getattr(m, "options", {})).values()]
        for v in values:
            if inspect.isroutine(v):
                judge(v, reasons, notes)
            elif is_asgi(v) and v is not app and not trusted(m.cls, TRUST):
                reasons.append(f"{full_name(m.cls)} hands requests to another application as well ({described(v)})")
    router = router_of(app)
    stack = getattr(router, "middleware_stack", None)
    if stack is not None and router is not app or stack is not None and not hasattr(app, "user_middleware"):
        way, _, _ = layers(stack, lambda v: v is router, is_asgi)
        for layer in way:
            judge(layer, reasons, notes)
    return list(dict.fromkeys(reasons))


main()
