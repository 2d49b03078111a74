"""Prints an application's routes as the data of a routes.yaml, without serving it.

Runs with the application's own Python: python -c THIS FRAMEWORK TARGET. The answer is one line of JSON on file
descriptor 3, so that whatever the application prints while it is imported can't be mistaken for it:
{"table": {...}, "notes": [...]} or {"error": "...", "where": "...", "traceback": [...]}.
"""

import ast
import importlib
import inspect
import json
import os
import re
import sys
import traceback


LIBRARY = os.path.dirname(os.__file__)


class Problem(Exception):
    """Something about the target that its user can put right."""


def main():
    framework, target = sys.argv[1:3]
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
    if inspect.isroutine(app):
        app = app()  # a factory without its brackets
    mounts = {}
    if hasattr(app, "mounts") and hasattr(app, "app"):
        mounts, app = app.mounts, app.app
    if not hasattr(app, "url_map"):
        raise Problem(f"{target!r} is a {type(app).__name__}, not a Flask application")
    inner = getattr(app, "wsgi_app", None)
    if not mounts and hasattr(inner, "mounts"):
        mounts = inner.mounts
    elif getattr(inner, "__func__", None) is not getattr(type(app), "wsgi_app", None):
        notes.append(f"wsgi_app is wrapped in {type(inner).__name__}: paths that it changes are not in the table")
    table = {"framework": "flask", "source": f"flask {target}"}
    url_map = app.url_map
    learn(facts_flask, app)
    for key in ("strict_slashes", "merge_slashes", "redirect_defaults"):
        if not getattr(url_map, key):
            table[key] = False
    if url_map.host_matching:
        table["host_matching"] = True
    elif getattr(app, "subdomain_matching", False) and app.config.get("SERVER_NAME"):
        table["subdomain_matching"] = app.config["SERVER_NAME"]
    root = (app.config.get("APPLICATION_ROOT") or "/").rstrip("/")
    if root:
        notes.append(
            f"APPLICATION_ROOT is {root!r}. Flask does not route by it: if the server sets SCRIPT_NAME to it, "
            f"add root_path: {root}"
        )
    converters = {}
    table["routes"] = flask_routes(app, url_map, converters, notes)
    for prefix, mounted in sorted(mounts.items()):
        if hasattr(mounted, "url_map"):
            routes = flask_routes(mounted, url_map, converters, notes)
            table["routes"].append({"mount": prefix, "routes": routes})
        else:
            notes.append(f"{prefix}: a {type(mounted).__name__} is mounted there, whose routes are not known")
            table["routes"].append({"mount": prefix, "routes": [entry("route", None, "/<path:path>"), "ANY /"]})
    if converters:
        table["converters"] = converters
    return table


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
        if rule.websocket:
            notes.append(f"{rule.rule}: a websocket route is left out")
            continue
        methods, automatic = None, True
        if rule.methods is not None:
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
            remark(notes, f"converter {name!r} has a to_python of its own: values that it refuses are not known here")
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
    if inspect.isroutine(app):
        app = app()  # a factory without its brackets
    learn(facts_asgi, app)
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app  # middleware around it
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
    table["routes"] = routes
    return table


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
    if hasattr(route, "effective_candidates"):  # FastAPI's include_router
        for candidate in route.effective_candidates():
            asgi_route(candidate, starlette, notes, explicit, out)
        return
    if hasattr(route, "original_route") and hasattr(route, "starlette_route"):
        if route.starlette_route is not None:
            asgi_route(route.starlette_route, starlette, notes, explicit, out)
            return
        explicit[0] = True
        out.append(asgi_leaf(route, route.original_route))
    elif isinstance(route, starlette.Mount):
        out.append(asgi_mount(route, starlette, notes, explicit))
    elif isinstance(route, starlette.Host):
        group = {"host_mount": route.host, "routes": asgi_routes(route.app, starlette, notes, explicit)}
        out.append(flags_of(route.app, group))
    elif isinstance(route, starlette.WebSocketRoute):
        notes.append(f"{route.path}: a websocket route is left out")
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
    app = getattr(route, "_base_app", route.app)
    if isinstance(router_of(app), starlette.Router):
        group = {"mount": route.path or "/", "routes": asgi_routes(app, starlette, notes, explicit)}
        return flags_of(app, group)
    return entry("route", None, route.path + "/{path:path}", name=route.name or type(app).__name__)


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
    allowed = {m for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
               if getattr(endpoint, m.lower(), None) is not None}
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


# Django


def django_table(target, notes):
    os.environ["DJANGO_SETTINGS_MODULE"] = target
    import django
    from django.conf import settings

    importlib.import_module(target)
    django.setup()
    from django.urls import get_resolver
    learn(facts_django, get_resolver().url_patterns)
    from django.urls.converters import DEFAULT_CONVERTERS, get_converters

    table = {"framework": "django", "source": f"django {target}"}
    common = [m for m in settings.MIDDLEWARE if m.endswith(".CommonMiddleware")]
    if not settings.APPEND_SLASH or not common:
        table["append_slash"] = False
    if settings.FORCE_SCRIPT_NAME:
        notes.append(
            f"FORCE_SCRIPT_NAME is {settings.FORCE_SCRIPT_NAME!r}. Django does not route by it: if the server sets "
            "SCRIPT_NAME to it, add root_path"
        )
    routes = django_patterns(get_resolver().url_patterns, "/", [], notes)
    converters = {}
    for name, converter in get_converters().items():
        builtin = DEFAULT_CONVERTERS.get(name)
        if converter is builtin:
            continue
        converters[name] = {"regex": converter.regex}
        notes.append(f"converter {name!r} is the application's own: values that its to_python refuses are not known here")
    if converters:
        table["converters"] = converters
    table["routes"] = routes
    return table


def django_patterns(patterns, prefix, namespaces, notes):
    """prefix goes in front of templates; it is "/" at the top and "" in a group."""
    from django.urls.resolvers import LocalePrefixPattern, RegexPattern, RoutePattern, URLResolver

    out = []
    for item in patterns:
        pattern = item.pattern
        text = str(pattern)
        if isinstance(item, URLResolver):
            inner = namespaces + [item.namespace] if item.namespace else namespaces
            if isinstance(pattern, LocalePrefixPattern):
                why = "i18n_patterns: the language of a request decides what matches"
                out.append(entry("route", None, prefix, name="i18n", unsupported=why))
                continue
            if getattr(item, "default_kwargs", None):
                notes.append(f"{prefix}{text}: the extra arguments of include() are not parameters")
            if isinstance(pattern, RoutePattern) and flat(pattern, item.url_patterns):
                out.extend(django_patterns(item.url_patterns, prefix + text, inner, notes))
            elif isinstance(pattern, RoutePattern):
                nested = django_patterns(item.url_patterns, "", inner, notes)
                out.append({"include": prefix + text, "routes": nested})
            else:
                nested = django_patterns(item.url_patterns, "", inner, notes)
                out.append({"re_include": text, "routes": nested})
            continue
        name = ":".join(namespaces + [item.name]) if item.name else item.lookup_str
        key = "re_path" if isinstance(pattern, RegexPattern) else "route"
        template = text if key == "re_path" else prefix + text
        made = entry(key, view_methods(item.callback), template, name=name)
        if not getattr(item.callback, "should_append_slash", True):
            made["append_slash"] = False
        out.append(made)
    return out


def flat(pattern, children):
    """Whether a prefix can be written in front of its children's templates without changing what matches."""
    from django.urls.resolvers import RoutePattern, URLResolver

    text = str(pattern)
    whole = re.fullmatch(r"(?:[^<>/]*/|<(?:(?:int|str|slug|uuid):)?[^<>:]+>/)*", text)
    if text and not ("<" not in text or whole):
        return False
    own = set(pattern.converters)
    for child in children:
        if not isinstance(child.pattern, RoutePattern) or own & set(child.pattern.converters):
            return False
        if isinstance(child, URLResolver) and not flat(child.pattern, child.url_patterns):
            return False
    return True


def view_methods(view):
    """The methods that a view answers other than with 405, where it says so; None is unknown, hence any."""
    found = None
    for f in unwrap(view):
        names = getattr(getattr(f, "__code__", None), "co_freevars", ())
        if "request_method_list" in names:
            listed = set(f.__closure__[names.index("request_method_list")].cell_contents)
            found = listed if found is None else found & listed
    actions = getattr(view, "actions", None)
    cls = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if isinstance(actions, dict):
        own = {m.upper() for m in actions} | {"OPTIONS"}
    elif cls is not None and hasattr(cls, "http_method_names"):
        listed = getattr(view, "view_initkwargs", {}).get("http_method_names", cls.http_method_names)
        own = {m.upper() for m in listed if hasattr(cls, m)}
        if "head" not in listed:
            return own if found is None else own & found
    else:
        return found
    if "GET" in own:
        own.add("HEAD")
    return own if found is None else own & found


def unwrap(view):
    seen = 0
    while view is not None and seen < 32:
        yield view
        view, seen = getattr(view, "__wrapped__", None), seen + 1


main()
