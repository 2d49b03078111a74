# What is worth knowing about an application beside its routes. This stands in front of importer.py, which calls learn. Nothing
# here may keep a table from being made: what cannot be learned is left out.

import os

FACTS = {}
MOST_FILES = 200


def learn(read, *args):
    try:
        read(*args)
    except Exception:  # another version of a library; the routes are what matters
        pass


def fact(key, value):
    if value and value not in FACTS.setdefault(key, []):
        FACTS[key].append(value)


def static_prefix(prefix, by):
    """A prefix that is the whole site would open everything."""
    prefix = "/" + (prefix or "").strip("/") + "/"
    if prefix != "//":
        fact("staticPrefixes", prefix)
        FACTS.setdefault("staticBy", by)


def static_files(paths, by):
    """Single files at the top, and folders with all that is below them."""
    for path in sorted(paths):
        first, slash, _ = path.lstrip("/").partition("/")
        if slash:
            static_prefix(first, by)
        elif first and len(FACTS.get("staticFiles", [])) < MOST_FILES:
            fact("staticFiles", "/" + first)
            FACTS.setdefault("staticBy", by)


def facts_flask(app):
    import flask
    from flask.blueprints import Blueprint

    plain = type(app).send_static_file is flask.Flask.send_static_file
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        owner, _, last = rule.endpoint.rpartition(".")
        if last != "static":
            continue
        if not owner and plain and app.has_static_folder and rule.rule == f"{app.static_url_path}/<path:filename>":
            fact("static", rule.rule)
        elif owner and getattr(view, "__func__", None) is Blueprint.send_static_file:
            fact("static", rule.rule)
    after = app.after_request_funcs.get(None) or []
    if any(getattr(f, "__module__", "").split(".")[0] == "flask_cors" for f in after):
        FACTS["cors"] = "flask-cors"
    inner = getattr(app, "wsgi_app", None)
    for _ in range(16):
        if any(c.__name__ == "WhiteNoise" for c in type(inner).__mro__):
            static_files(getattr(inner, "files", None) or {}, "WhiteNoise")
            for _, prefix in getattr(inner, "directories", None) or []:
                static_prefix(prefix, "WhiteNoise")
        inner = getattr(inner, "application", None) or getattr(inner, "app", None) or getattr(inner, "wsgi_app", None)
        if inner is None:
            break


def facts_asgi(app):
    from starlette.middleware.cors import CORSMiddleware
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    def mounts(routes, prefix, depth):
        for route in routes or []:
            if isinstance(route, Mount) and depth < 8:
                inner = getattr(route, "_base_app", route.app)
                if type(inner) is StaticFiles:
                    fact("static", prefix + route.path + "/{path:path}")
                else:
                    mounts(getattr(inner, "routes", None), prefix + route.path, depth + 1)

    for _ in range(16):  # middleware around it
        if isinstance(app, CORSMiddleware):
            FACTS["cors"] = "CORSMiddleware"
        if hasattr(app, "routes") or not hasattr(app, "app"):
            break
        app = app.app
    if any(m.cls is CORSMiddleware for m in getattr(app, "user_middleware", [])):
        FACTS["cors"] = "CORSMiddleware"
    mounts(getattr(app, "routes", None), "", 0)


def facts_django(patterns):
    import re

    from django.conf import settings
    from django.views.static import serve

    middleware = list(settings.MIDDLEWARE)
    views = [serve]
    if "django.contrib.staticfiles" in settings.INSTALLED_APPS:
        from django.contrib.staticfiles.views import serve as finder

        views.append(finder)
    prefix = settings.STATIC_URL or ""
    if "//" in prefix:  # another host
        prefix = ""
    whitenoise = any(m.endswith(".WhiteNoiseMiddleware") for m in middleware)
    by = "WhiteNoise" if whitenoise else "STATIC_URL"
    if whitenoise and getattr(settings, "WHITENOISE_STATIC_PREFIX", None):
        prefix = settings.WHITENOISE_STATIC_PREFIX
    routed = False
    for item in patterns:
        if prefix and getattr(item, "callback", None) in views and str(item.pattern) == "^%s(?P<path>.*)$" % re.escape(prefix.lstrip("/")):
            fact("static", str(item.pattern))
            routed = True
    if prefix and not routed and (whitenoise or "django.contrib.staticfiles" in settings.INSTALLED_APPS):
        static_prefix(prefix, by)
    root = getattr(settings, "WHITENOISE_ROOT", None)
    if whitenoise and root:
        found = []
        for folder, folders, names in os.walk(str(root)):
            folders.sort()
            found += [os.path.relpath(os.path.join(folder, n), str(root)) for n in names]
            if len(found) > 10 * MOST_FILES:
                break
        static_files(found, by)
    if "corsheaders.middleware.CorsMiddleware" in middleware:
        FACTS["cors"] = "django-cors-headers"
        paths = getattr(settings, "CORS_URLS_REGEX", None)
        if paths not in (None, r"^.*$", ".*", "^.*"):
            FACTS["corsPartly"] = "CORS_URLS_REGEX leaves out some paths, whose views would run"
    for m in middleware:
        if "allback" in m.rpartition(".")[2]:
            fact("fallbacks", m)
