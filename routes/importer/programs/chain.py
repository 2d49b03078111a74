"""What stands between the server and the router: middleware, and applications within applications.

A router's table is only true of requests that reach it as they came. This finds what changes a request's path, method or table on
the way, and what hands it to another application: by reading the code, never by calling it.
"""

import ast
import dis
import functools
import importlib
import importlib.util
import inspect
import sys
import textwrap
import types

# Whose own code is known to leave alone what the routes are chosen by, or is read elsewhere in this program.
KNOWN = ("django", "rest_framework", "starlette", "fastapi", "flask", "werkzeug", "uvicorn", "gunicorn", "asgiref",
         # reports about requests, which copy a scope or fill a dictionary of their own
         "sentry_sdk", "elasticapm", "opentelemetry", "prometheus_fastapi_instrumentator")

# Keys of an ASGI scope, a WSGI environ or Django's META that routes are chosen by.
PLAIN_KEYS = {"path", "raw_path", "root_path", "method"}
KEYS = PLAIN_KEYS | {"PATH_INFO", "SCRIPT_NAME", "REQUEST_METHOD", "RAW_URI", "REQUEST_URI"}
ATTRIBUTES = {"urlconf", "path_info", "url_rule", "url_adapter"}

# What an application is handed besides the request, and what it is called.
CHANNELS = {"receive", "send", "start_response"}
APPLICATIONS = {"app", "_app", "application", "wsgi_app", "get_response", "call_next", "Request", "HttpRequest", "WSGIRequest", "ASGIRequest"}
REQUESTS = {"request", "req", "_request", "http_request", "scope", "environ", "env"}

# What code calls its notes for logs and answers; a key "path" in there is nobody's route.
HARMLESS = {"extra", "data", "log", "log_data", "context", "ctx", "payload", "event", "record", "labels", "attributes", "tags", "fields",
            "headers", "params", "result", "info", "details", "body", "message", "msg", "span", "response", "attrs", "report", "entry"}


def known(module):
    top = (module or "").partition(".")[0]
    return top in KNOWN or top in sys.stdlib_module_names


def trusted(thing, trust):
    name = full_name(thing)
    return any(name == t or name.startswith(t + ".") for t in trust)


def full_name(thing):
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        thing = type(thing)
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', type(thing).__name__)}"


def changes(thing, trust=()):
    """Why a piece of middleware may change which route a request takes: a list of texts, empty where nothing was found."""
    if trusted(thing, trust):
        return []
    found, seen, handed = [], set(), set()
    todo = [(f, 0) for f in functions_of(thing)]
    for f, _ in todo:
        handed |= handed_on(f)
    todo.extend((f, 1) for cls in helpers_of(thing) for f in functions_of(cls) if f.__name__ in handed)
    while todo and len(seen) < 400:
        f, depth = todo.pop()
        if f.__code__ in seen:
            continue
        seen.add(f.__code__)
        found.extend(w for w in writes(f) if w not in found)
        if depth < 4:
            handed |= handed_on(f)
            todo.extend((g, depth + 1) for g in mentioned(f, handed) if not trusted(g, trust))
    return found


def helpers_of(thing):
    """The classes of objects that a class, or an object, holds."""
    cls = thing if inspect.isclass(thing) else type(thing)
    held = [v for base in cls.__mro__ if not known(base.__module__) for v in vars(base).values()]
    if not inspect.isroutine(thing) and not inspect.isclass(thing):
        held.extend(getattr(thing, "__dict__", {}).values())
    return {type(v) for v in held if not known(type(v).__module__)}


def functions_of(thing):
    """The functions of a class, of an object's class, or behind a function, that are not a known library's."""
    if isinstance(thing, functools.partial):
        return functions_of(thing.func) + [f for a in [*thing.args, *thing.keywords.values()] if callable(a) for f in functions_of(a)]
    if inspect.ismethod(thing):
        return functions_of(thing.__func__)
    if inspect.isfunction(thing):
        own = [] if known(thing.__globals__.get("__name__")) else [thing]
        for cell in thing.__closure__ or ():
            value = contents(cell)
            if inspect.isfunction(value) or inspect.ismethod(value):
                own.extend(functions_of(value))
        wrapped = getattr(thing, "__wrapped__", None)
        return own + (functions_of(wrapped) if inspect.isfunction(wrapped) and wrapped is not thing else [])
    cls = thing if inspect.isclass(thing) else type(thing)
    out = []
    for base in cls.__mro__:
        if known(base.__module__):
            continue
        for value in vars(base).values():
            if isinstance(value, (staticmethod, classmethod)):
                value = value.__func__
            if isinstance(value, property):
                out.extend(f for f in (value.fget, value.fset) if inspect.isfunction(f))
            elif isinstance(value, functools.cached_property):
                out.append(value.func)
            elif inspect.isfunction(value):
                out.extend(functions_of(value) if "__wrapped__" in vars(value) else [value])
    return out


def contents(cell):
    try:
        return cell.cell_contents
    except ValueError:
        return None


def mentioned(f, handed):
    """Functions and classes that a function names: all of its own package, and of others what is handed the request."""
    package = (f.__globals__.get("__name__") or "").partition(".")[0]
    names, codes, values = set(), [f.__code__], []
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
        values.extend(imported(code, f.__globals__))
    values.extend(f.__globals__.get(name) for name in names)
    out = []
    for value in values:
        members = [value]
        if inspect.ismodule(value) and not known(value.__name__):
            members = [getattr(value, n, None) for n in names if isinstance(getattr(value, n, None), (types.FunctionType, type))]
        for v in members:
            if not (inspect.isfunction(v) or inspect.isclass(v)):
                v = type(v)  # an object that does the work
            if known(getattr(v, "__module__", "")):
                continue
            own = (getattr(v, "__module__", "") or "").partition(".")[0] == package
            out.extend(g for g in functions_of(v) if own or g.__name__ in handed or getattr(v, "__name__", "") in handed)
    return out


def imported(code, globals):
    """What a function imports when it runs."""
    out, module, level = [], None, 0
    before = [None, None]
    for i in dis.get_instructions(code):
        try:
            if i.opname == "IMPORT_NAME":
                level = before[0].argval if before[0] is not None and isinstance(before[0].argval, int) else 0
                name = importlib.util.resolve_name("." * level + i.argval, globals.get("__package__") or "") if level else i.argval
                module = None if known(name) else importlib.import_module(name)
                out.append(module)
            elif i.opname == "IMPORT_FROM" and module is not None:
                out.append(getattr(module, i.argval, None))
        except Exception:  # it would fail when the request comes, too
            module = None
        before = [before[1], i]
    return [v for v in out if v is not None]


def handed_on(f):
    """The names of what a function calls with the request."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(f.__code__)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return set(f.__code__.co_names)
    out, renamed = set(), {}
    params = set(f.__code__.co_varnames[: f.__code__.co_argcount]) - {"self", "cls"} - CHANNELS
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            renamed.update({a.asname: a.name.rpartition(".")[2] for a in node.names if a.asname})
        if not isinstance(node, ast.Call):
            continue
        for arg in [*node.args, *(k.value for k in node.keywords)]:
            arg = arg.value if isinstance(arg, ast.Starred) else arg
            if isinstance(arg, ast.Name) and arg.id in params | REQUESTS or isinstance(arg, ast.Attribute) and arg.attr in REQUESTS | {"META", "__dict__"}:
                out.add(last(node.func))
    return out | {renamed[n] for n in out if n in renamed}


def writes(f):
    where = f"{f.__module__}.{f.__code__.co_qualname if hasattr(f.__code__, 'co_qualname') else f.__qualname__}"
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(f.__code__)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return [f"{where} {what}" for what in writes_of_code(f.__code__)]
    reader = Reader(f)
    reader.visit(tree)
    line = f.__code__.co_firstlineno - 1
    return [f"{where} {what} (line {line + number})" for what, number in reader.judged()]


class Reader(ast.NodeVisitor):
    """Collects what a function does to a request."""

    def __init__(self, function):
        self.function = function
        self.found = []
        self.fresh = {}  # dictionaries that the function makes of its own, and their nodes
        self.stale = set()
        self.handed = set()  # names that an application is called with
        self.views = set()  # names of views
        self.params = set()

    def judged(self):
        mine = self.fresh.keys() - self.stale - self.handed
        for name in self.handed & self.fresh.keys():
            self.update(self.fresh[name], ast.Name(name), dict_keys(self.fresh[name]))
        return [(what, line) for name, what, line in self.found if name not in mine]

    def visit_FunctionDef(self, node):
        args = node.args
        self.params |= {a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]} - {"self", "cls", "response", "resp"}
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def constant(self, node):
        """A constant, by itself or by a name of the module's or the class's."""
        if isinstance(node, ast.Name):
            return self.function.__globals__.get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            holder = self.function.__globals__.get(node.value.id)
            if node.value.id in ("self", "cls") and "<locals>" not in self.function.__qualname__:
                holder = self.function.__globals__.get(self.function.__qualname__.partition(".")[0])
            return getattr(holder, node.attr, None) if inspect.isclass(holder) or inspect.ismodule(holder) else None
        return constant(node)

    def note(self, node, what, name=None):
        self.found.append((name, what, node.lineno))

    def visit_Assign(self, node):
        for target in node.targets:
            self.assigned(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node):
        self.assigned(node.target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node):
        self.assigned(node.target, node.value)
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        if isinstance(node.target, ast.Name) and isinstance(node.value, ast.Dict):
            self.update(node, node.target, node.value.keys)
        self.assigned(node.target, None)
        self.generic_visit(node)

    def visit_Delete(self, node):
        for target in node.targets:
            self.assigned(target, None)

    def assigned(self, target, value):
        if isinstance(target, (ast.Tuple, ast.List)):
            if isinstance(value, ast.Call) and last(value.func) == "resolve":
                self.note(target, "takes a view out of the URL configuration by itself")
            for one in target.elts:
                self.assigned(one, None)
        elif isinstance(target, ast.Name):
            new = isinstance(value, ast.Dict) and None not in value.keys
            new = new or isinstance(value, ast.Call) and last(value.func) in ("dict", "OrderedDict", "defaultdict") and not value.args
            if new:
                self.fresh[target.id] = value
            else:
                self.stale.add(target.id)
            if isinstance(value, ast.Attribute) and value.attr == "func" or is_view(value):
                self.views.add(target.id)
        elif isinstance(target, ast.Attribute):
            self.attribute(target, target.attr, target.value)
        elif isinstance(target, ast.Subscript):
            self.item(target, target.slice, target.value)

    def attribute(self, node, name, receiver):
        if last(receiver) in ("self", "cls"):
            return
        if name in ATTRIBUTES or name == "method" and (last(receiver) in REQUESTS or isinstance(receiver, ast.Name) and receiver.id in self.params):
            self.note(node, f"sets {last(receiver) or 'a request'}.{name}")
        elif name in ("scope", "environ", "META") and last(receiver) in ("request", "req", "_request"):
            self.note(node, f"replaces {last(receiver)}.{name}")

    def item(self, node, slot, receiver):
        key = self.constant(slot)
        if isinstance(slot, ast.Name) and not isinstance(key, str) and last(receiver) in ("scope", "environ", "META"):
            self.note(node, f"sets {last(receiver)}[{slot.id}], a key that is made up")
        self.key(node, key, receiver)

    def key(self, node, key, receiver):
        name = last(receiver)
        if isinstance(key, str) and key in ATTRIBUTES and name in ("__dict__", "vars"):
            self.note(node, f"sets {key}")
        if not isinstance(key, str):
            return
        if key not in KEYS or key in PLAIN_KEYS and (name or "").lower() in HARMLESS:
            return
        self.note(node, f"sets {name or ''}[{key!r}]", receiver.id if isinstance(receiver, ast.Name) else None)

    def update(self, node, receiver, keys):
        for key in keys:
            if key is not None:
                self.key(node, self.constant(key), receiver)

    def visit_Dict(self, node):
        if None in node.keys:  # {**scope, "path": ...}
            self.update(node, ast.Name("copy"), node.keys)
        self.generic_visit(node)

    def visit_BinOp(self, node):
        if isinstance(node.op, ast.BitOr) and isinstance(node.right, ast.Dict):
            self.update(node, node.left, node.right.keys)
        self.generic_visit(node)

    def visit_Call(self, node):
        name = last(node.func)
        receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
        keywords = [ast.Constant(k.arg) for k in node.keywords if k.arg]
        self.passed_on(node, name)
        if name in ("__setitem__", "setitem", "__setattr__") and len(node.args) == 3:
            receiver, node = node.args[0], ast.copy_location(ast.Call(node.func, node.args[1:], []), node)
        if name == "setitem":
            self.update(node, receiver, node.args[:1])
        elif name == "__setattr__" and len(node.args) == 2 and isinstance(self.constant(node.args[0]), str):
            self.attribute(node, self.constant(node.args[0]), receiver)
        elif name == "set_urlconf":
            self.note(node, "calls set_urlconf")
        elif name == "setattr" and len(node.args) == 3:
            text = self.constant(node.args[1])
            if text is None and last(node.args[0]) in ("request", "req", "scope"):
                self.note(node, "sets an attribute of the request by a name that is made up")
            elif isinstance(text, str):
                self.attribute(node, text, node.args[0])
        elif name == "dict" and node.args:
            self.update(node, ast.Name("copy"), keywords)
        elif name in ("update", "__setitem__", "pop", "setdefault", "replace", "_replace") and receiver is not None:
            first = node.args[0] if node.args else None
            keys = first.keys if isinstance(first, ast.Dict) else []
            if name == "update" and first is not None and last(receiver) in ("scope", "environ", "META"):
                made = self.fresh.get(first.id) if isinstance(first, ast.Name) and first.id not in self.stale else None
                keys = keys or dict_keys(made)
                if made is None and not isinstance(first, ast.Dict):
                    self.note(node, f"puts into {last(receiver)} what is made up elsewhere")
            if name in ("__setitem__", "pop", "setdefault"):
                keys = [first] if first is not None else []
            if name in ("update", "__setitem__", "pop", "setdefault"):
                self.update(node, receiver, keys + keywords)
        elif name == "func" and receiver is not None:
            self.note(node, "calls a view by itself")
        elif is_view(node.func) or isinstance(node.func, ast.Name) and name in self.views:
            self.note(node, "calls a view by itself")
        self.generic_visit(node)

    def passed_on(self, node, name):
        """What an application is called with in place of the request that came."""
        others = {last(a) for a in [*node.args[1:], *(k.value for k in node.keywords)]}
        if not node.args or not (name in APPLICATIONS or others & CHANNELS):
            return
        first = node.args[0]
        if isinstance(first, ast.Name):
            self.handed.add(first.id)
        elif isinstance(first, ast.Dict):
            self.update(first, ast.Name("copy"), first.keys)


def is_view(node):
    """view_functions["name"], or what get() takes out of it."""
    if isinstance(node, ast.Subscript):
        return last(node.value) == "view_functions"
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and last(node.func.value) == "view_functions"


def dict_keys(node):
    """The keys of {...} and of dict(...)."""
    if isinstance(node, ast.Dict):
        return node.keys
    return [ast.Constant(k.arg) for k in node.keywords if k.arg] if isinstance(node, ast.Call) else []


def last(node):
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        return last(node.func)
    return None


def constant(node):
    return node.value if isinstance(node, ast.Constant) else None


def writes_of_code(code):
    """The same where there is no source: what is stored, and which keys the code has at hand."""
    out, codes = [], [code]
    while codes:
        one = codes.pop()
        codes.extend(c for c in one.co_consts if isinstance(c, types.CodeType))
        stores = False
        for i in dis.get_instructions(one):
            if i.opname == "STORE_ATTR" and i.argval in ATTRIBUTES:
                out.append(f"sets {i.argval}")
            stores = stores or i.opname in ("STORE_SUBSCR", "DICT_UPDATE", "BUILD_MAP", "BUILD_CONST_KEY_MAP")
        held = set()
        for c in one.co_consts:
            held.update(c if isinstance(c, tuple) else (c,) if isinstance(c, str) else ())
        for key in sorted(held & (KEYS | {"urlconf"})):
            if stores or key in ATTRIBUTES:
                out.append(f"may set {key!r}")
        if "set_urlconf" in one.co_names:
            out.append("calls set_urlconf")
    return out


def has(thing, name):
    """hasattr that takes whatever an object's own __getattr__ raises for no."""
    try:
        return getattr(thing, name, None) is not None
    except Exception:
        return False


# Stand for other objects, and may do anything when they are looked at.
PROXIES = {"LocalProxy", "LocalStack", "Local", "LazyObject", "SimpleLazyObject", "LazySettings", "ObjectProxy", "FunctionWrapper", "Mock", "MagicMock"}


def inner(thing):
    """What a layer holds that a request may be handed to: (where, object), directly or in a list or mapping."""
    held = []
    if inspect.ismethod(thing):
        held.append(("__self__", thing.__self__))
    elif inspect.isfunction(thing):
        held.extend(zip(thing.__code__.co_freevars, map(contents, thing.__closure__ or ())))
        held.append(("__wrapped__", getattr(thing, "__wrapped__", None)))
        held.extend((n, thing.__globals__[n]) for n in thing.__code__.co_names if n in thing.__globals__)
    elif isinstance(thing, functools.partial):
        held.extend([("func", thing.func), *((str(i), a) for i, a in enumerate(thing.args)), *thing.keywords.items()])
    else:
        held.extend(getattr(thing, "__dict__", {}).items())
        for cls in type(thing).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            held.extend((s, getattr(thing, s, None)) for s in ([slots] if isinstance(slots, str) else slots))
    out = []
    for where, value in held:
        if isinstance(value, dict):
            out.extend((f"{where}[{k!r}]", v) for k, v in list(value.items())[:200])
        elif isinstance(value, (list, tuple, set, frozenset)):
            for i, v in enumerate(list(value)[:200]):
                out.extend((f"{where}[{i}]", w) for w in (v if isinstance(v, tuple) else (v,)))
        else:
            out.append((where, value))
    return [(where, v) for where, v in out if type(v).__name__ not in PROXIES and v is not None and callable(v) and not inspect.isclass(v) and not inspect.ismodule(v)]


def layers(outer, is_router, is_app):
    """The way from an application's outermost layer to its router: ([layers], router, [(where, other application)]).

    is_router says that an object is a router whose routes can be read; is_app that it is an application of some kind.
    """
    way, others, thing = [], [], outer
    while not is_router(thing):
        if len(way) > 40:
            return way, None, others
        way.append(thing)
        apps, seen = [], {id(w) for w in way}
        for where, v in inner(thing):
            if id(v) not in seen and (is_router(v) or is_app(v) or leads(v, is_router, seen)):
                seen.add(id(v))
                apps.append((where, v))
        routers = [(w, v) for w, v in apps if is_router(v)] or [(w, v) for w, v in apps if leads(v, is_router, {id(w) for w in way})]
        if not routers:
            return way, None, others
        preferred = [r for r in routers if r[0] in ("app", "application", "_app", "inner", "wsgi_app", "wrapped", "wrap_app", "__self__")]
        chosen = (preferred or routers)[0]
        others.extend((w, v, thing) for w, v in apps if v is not chosen[1])
        thing = chosen[1]
    return way, thing, others


def leads(thing, is_router, seen, depth=0):
    """Whether a router lies behind an object."""
    if depth > 6 or known_value(thing):
        return False
    for _, v in inner(thing):
        if id(v) in seen:
            continue
        seen = seen | {id(v)}
        if is_router(v) or leads(v, is_router, seen, depth + 1):
            return True
    return False


def known_value(thing):
    """A function of a library's leads nowhere, except by what it closes over."""
    return inspect.isfunction(thing) and known(thing.__module__) and not thing.__closure__ or inspect.isbuiltin(thing)
