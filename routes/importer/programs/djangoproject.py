"""Reads the URL configuration of a Django project."""


def django_table(target, notes):
    os.environ["DJANGO_SETTINGS_MODULE"] = target
    import django
    from django.conf import settings

    importlib.import_module(target)
    django.setup()
    from django.urls import get_resolver

    learn(facts_django, get_resolver().url_patterns)
    table = {"framework": "django", "source": f"django {target}"}
    common = [m for m in settings.MIDDLEWARE if m.endswith(".CommonMiddleware")]
    if not settings.APPEND_SLASH or not common:
        table["append_slash"] = False
    if settings.FORCE_SCRIPT_NAME:
        notes.append(
            f"FORCE_SCRIPT_NAME is {settings.FORCE_SCRIPT_NAME!r}. Django does not route by it: if the server sets "
            "SCRIPT_NAME to it, add root_path"
        )
    reasons = django_middleware(settings, notes)
    reasons += django_wsgi(settings, notes)
    before, sockets, asgi_reasons = django_asgi(settings, notes)
    routes = unknowable(reasons + asgi_reasons) + before + django_patterns(get_resolver().url_patterns, "/", [], notes) + sockets
    if sockets:
        table["server"] = "asgi"
    converters = django_converters()
    if converters:
        table["converters"] = converters
    table["routes"] = routes
    return table


def django_converters():
    from django.urls.converters import DEFAULT_CONVERTERS, get_converters

    found = {}
    for name, converter in get_converters().items():
        if converter is DEFAULT_CONVERTERS.get(name):
            continue
        found[name] = {"regex": converter.regex}
        if takes_all(converter):
            found[name]["exact"] = True
    return found


def takes_all(converter):
    """Whether to_python surely takes every text that the expression does. Where it is not sure, Django may try the next pattern."""
    from django.urls import converters

    f = getattr(type(converter).to_python, "__func__", type(converter).to_python)
    if f in (converters.StringConverter.to_python,):
        return True
    digits = re.fullmatch(r"(?:\[0-9\]|\\d|[0-9])(?:\{\d{1,3}(?:,\d{1,3})?\})?(?:(?:\[0-9\]|\\d|[0-9])(?:\{\d{1,3}(?:,\d{1,3})?\})?)*", converter.regex)
    if f is converters.IntConverter.to_python:
        return bool(digits)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(f.__code__)))  # of the function itself; a decorated one's would be what it wraps
    except (AttributeError, OSError, TypeError, SyntaxError, IndentationError):
        return False
    if not isinstance(tree.body[0], ast.FunctionDef) or tree.body[0].decorator_list:
        return False
    body = [s for s in tree.body[0].body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if len(body) != 1 or not isinstance(body[0], ast.Return):
        return False
    return cannot_raise(body[0].value, {a.arg for a in tree.body[0].args.args}, bool(digits))


STRING_METHODS = {"strip", "lstrip", "rstrip", "lower", "upper", "title", "casefold", "removeprefix", "removesuffix", "split", "replace", "swapcase"}


def cannot_raise(node, names, digits):
    """An expression of the value, constants and methods of str that take any text; int() where the text is a few digits."""
    if isinstance(node, ast.Name):
        return node.id in names and node.id != "self"
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Call) and not node.keywords:
        if isinstance(node.func, ast.Attribute):
            fixed = all(isinstance(a, ast.Constant) and isinstance(a.value, str) and a.value for a in node.args)
            return node.func.attr in STRING_METHODS and fixed and cannot_raise(node.func.value, names, False)
        if isinstance(node.func, ast.Name) and len(node.args) == 1:
            plain = isinstance(node.args[0], ast.Name) and node.args[0].id in names
            return plain and (node.func.id == "str" or node.func.id == "int" and digits)
    return False


def django_middleware(settings, notes):
    """Why the middleware may change which view a request takes."""
    from django.utils.module_loading import import_string

    reasons = []
    for path in settings.MIDDLEWARE:
        try:
            middleware = import_string(path)
        except Exception as e:
            notes.append(f"middleware {path}: {type(e).__name__}: {e}")
            continue
        judge(middleware, reasons, notes)
    return reasons


def django_wsgi(settings, notes):
    """Why what is around the WSGI application may change the request's path."""
    from django.core.handlers.wsgi import WSGIHandler

    outer = entry_point(settings, "WSGI_APPLICATION", notes)
    if outer is None:
        return []
    reasons = []
    if isinstance(outer, WSGIHandler):
        return handler_reasons(outer, reasons, notes)
    is_handler = lambda v: isinstance(v, WSGIHandler)
    way, found, others = layers(outer, is_handler, is_wsgi)
    for layer in way:
        judge(layer, reasons, notes)
    if found is None:
        reasons.append(f"WSGI_APPLICATION is {described(outer)}, and Django's own was not found in it")
    else:
        reasons.extend(several(others, found, is_handler, is_wsgi))
        handler_reasons(found, reasons, notes)
    return reasons


def handler_reasons(handler, reasons, notes):
    """Adds why a handler of the project's own, or the requests that it makes, may change the route."""
    judge(handler, reasons, notes)
    judge(getattr(handler, "request_class", None), reasons, notes)
    reasons.extend(replaced(type(handler), "resolve_request", "_get_response", "_get_response_async", "load_middleware"))
    return reasons


def entry_point(settings, key, notes):
    path = getattr(settings, key, None)
    if not path:
        return None
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as e:
        if not (isinstance(e, ModuleNotFoundError) and module.startswith(e.name or "\0")):
            notes.append(f"{key} {path}: {type(e).__name__}: {e}")
        return None


def django_asgi(settings, notes):
    """What channels routes before Django, the WebSockets, and why the table can't be known: (entries, entries, reasons)."""
    from django.core.handlers.asgi import ASGIHandler

    outer = entry_point(settings, "ASGI_APPLICATION", notes)
    if outer is None or isinstance(outer, ASGIHandler):
        return [], [], handler_reasons(outer, [], notes) if outer is not None else []
    mapped = lambda v: isinstance(getattr(v, "application_mapping", None), dict)
    is_end = lambda v: isinstance(v, ASGIHandler) or mapped(v)
    reasons, before, sockets = [], [], []
    way, found, others = layers(outer, is_end, is_asgi)
    for layer in way:
        judge(layer, reasons, notes)
    if found is None:
        return [], [], reasons + [f"ASGI_APPLICATION is {described(outer)}, and Django's own was not found in it"]
    reasons.extend(several(others, found, is_end, is_asgi))
    if not mapped(found):
        return [], [], handler_reasons(found, reasons, notes)
    for kind, app in found.application_mapping.items():
        if kind == "http" and isinstance(app, ASGIHandler):
            handler_reasons(app, reasons, notes)
        elif kind == "http":
            before = channel_routes(app, None, reasons, notes)
        elif kind == "websocket":
            sockets = channel_routes(app, {"WEBSOCKET"}, [], notes)
    return before, sockets, reasons


def channel_routes(app, methods, reasons, notes):
    """The routes of channels' URLRouter, through the middleware around it. Django itself, behind such a router, ends the list."""
    from django.core.handlers.asgi import ASGIHandler

    is_end = lambda v: type(v).__name__ == "URLRouter" or isinstance(v, ASGIHandler)
    way, router, others = layers(app, is_end, is_asgi)
    why = []
    for layer in way:
        judge(layer, why, notes)
    if router is None and methods:
        why.append(f"{described(app)} takes the WebSockets, whose routes are not known")
    elif router is None:
        why.append(f"{described(app)} takes the requests before Django")
    else:
        why.extend(several(others, router, is_end, is_asgi))
    if why and methods:
        return [entry("route", methods, "/", unsupported="; ".join(why[:4]))]
    reasons.extend(why)
    if router is None or isinstance(router, ASGIHandler):
        return []
    out = []
    channel_list(router, "/", methods, out, reasons)
    return out


def channel_list(router, prefix, methods, out, reasons):
    from django.core.handlers.asgi import ASGIHandler
    from django.urls.resolvers import RegexPattern

    for route in router.routes:
        text, regex = str(route.pattern), isinstance(route.pattern, RegexPattern)
        if type(route.callback).__name__ == "URLRouter":
            group = {"re_include": text} if regex else {"include": prefix + text}
            group["routes"] = []
            channel_list(route.callback, "", methods, group["routes"], reasons)
            out.append(group)
        elif isinstance(route.callback, ASGIHandler):
            if not (regex and text in ("", "^", "^.*$", ".*") and prefix == "/"):
                reasons.append(f"a URLRouter hands {text!r} to Django, and other paths to nobody")
            return
        else:
            out.append(entry("re_path" if regex else "route", methods, text if regex else prefix + text, name=route.name or described(route.callback)))


def django_patterns(patterns, prefix, namespaces, notes):
    """prefix goes in front of templates; it is "/" at the top and "" in a group."""
    from django.urls.resolvers import LocalePrefixPattern, RegexPattern, RoutePattern, URLResolver

    out = []
    for item in patterns:
        pattern = item.pattern
        text = str(pattern) if not isinstance(pattern, LocalePrefixPattern) else ""
        own = replaced(type(item), "resolve") + replaced(type(pattern), "match")
        if own:
            why = "; ".join(own) + ": which requests it takes cannot be known from the table"
            out.append(entry("route", None, prefix, name="unknown", unsupported=why))
            continue
        if isinstance(item, URLResolver):
            inner_names = namespaces + [item.namespace] if item.namespace else namespaces
            if getattr(item, "default_kwargs", None):
                notes.append(f"{prefix}{text}: the extra arguments of include() are not parameters")
            if isinstance(pattern, LocalePrefixPattern):
                nested = lambda: django_patterns(item.url_patterns, "", inner_names, notes)
                out.extend(language_includes(pattern, prefix, nested, notes))
            elif isinstance(pattern, RoutePattern) and flat(pattern, item.url_patterns):
                out.extend(django_patterns(item.url_patterns, prefix + text, inner_names, notes))
            elif isinstance(pattern, RoutePattern):
                nested = django_patterns(item.url_patterns, "", inner_names, notes)
                out.append({"include": prefix + text, "routes": nested})
            elif isinstance(pattern, RegexPattern):
                nested = django_patterns(item.url_patterns, "", inner_names, notes)
                out.append({"re_include": text, "routes": nested})
            else:
                why = f"a {type(pattern).__name__} is no kind of pattern that is known here"
                out.append(entry("route", None, prefix, name="unknown", unsupported=why))
            continue
        name = ":".join(namespaces + [item.name]) if item.name else item.lookup_str
        if not isinstance(pattern, (RegexPattern, RoutePattern)):
            why = f"a {type(pattern).__name__} is no kind of pattern that is known here"
            out.append(entry("route", None, prefix, name=name, unsupported=why))
            continue
        key = "re_path" if isinstance(pattern, RegexPattern) else "route"
        template = text if key == "re_path" else prefix + text
        made = entry(key, view_methods(item.callback), template, name=name)
        if not getattr(item.callback, "should_append_slash", True):
            made["append_slash"] = False
        out.append(made)
    return out


def language_includes(pattern, prefix, nested, notes):
    """What i18n_patterns match: one include for each language that a path can choose. Where LocaleMiddleware runs the path alone
    decides; without it there is one language."""
    from django.conf import settings
    from django.utils import translation
    from django.utils.module_loading import import_string

    classes = []
    for path in settings.MIDDLEWARE:
        try:
            classes.append(import_string(path))
        except Exception:
            continue
    from django.middleware.locale import LocaleMiddleware

    locale = [c for c in classes if inspect.isclass(c) and issubclass(c, LocaleMiddleware)]
    others = [c for c in classes if not known(c.__module__) and activates(c)]
    if others or [c for c in locale if c is not LocaleMiddleware]:
        who = described((others or locale)[0])
        return [entry("route", None, prefix, name="i18n", unsupported=f"i18n_patterns: {who} chooses the language by itself")]
    if not settings.USE_I18N:
        chosen, locale = [settings.LANGUAGE_CODE], []
    elif locale:
        chosen = [code for code, _ in settings.LANGUAGES if translation.get_language_from_path(f"/{code}/x") == code]
    else:
        chosen = [settings.LANGUAGE_CODE]
    out = []
    for code in chosen:
        if code != settings.LANGUAGE_CODE or pattern.prefix_default_language:
            out.append({"include": f"{prefix}{code}/", "routes": nested()})
    if not pattern.prefix_default_language:
        # A path of another language is none of these, and a path may say its language in more ways than its prefix ("/DE-at/").
        bare = {"include": prefix, "routes": nested()}
        if locale and len(chosen) > 1:
            bare["unsure"] = True
        out.append(bare)
    return out


def activates(middleware):
    for f in functions_of(middleware):
        codes = [f.__code__]
        while codes:
            code = codes.pop()
            codes.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
            if {"activate", "override"} & set(code.co_names):
                return True
    return False


def flat(pattern, children):
    """Whether a prefix can be written in front of its children's templates without changing what matches."""
    from django.urls.resolvers import RoutePattern, URLResolver

    text = str(pattern)
    whole = re.fullmatch(r"(?:[^<>/]*/|<(?:(?:int|str|slug|uuid):)?[^<>:]+>/)*", text)
    if text and not ("<" not in text or whole):
        return False
    own = set(pattern.converters)
    for child in children:
        if type(child.pattern) is not RoutePattern or own & set(child.pattern.converters):
            return False
        if isinstance(child, URLResolver) and not flat(child.pattern, child.url_patterns):
            return False
    return True
