"""What stands between the server and the router: middleware, and applications within applications.

A router's table is only true of requests that reach it as they came. This finds what changes a request's path, method or table on
the way, and what hands it to another application: by reading the code, never by calling it.
"""

import ast
import dis
import functools
import inspect
import sys
import textwrap
import types

# Whose own code is known to leave alone what the routes are chosen by, or is read elsewhere in this program.
KNOWN = ("django", "rest_framework", "starlette", "fastapi", "flask", "werkzeug", "uvicorn", "gunicorn", "asgiref")

# Keys of an ASGI scope, a WSGI environ or Django's META that routes are chosen by.
PLAIN_KEYS = {"path", "raw_path", "root_path", "method"}
KEYS = PLAIN_KEYS | {"PATH_INFO", "SCRIPT_NAME", "REQUEST_METHOD", "RAW_URI", "REQUEST_URI"}
ATTRIBUTES = {"urlconf", "path_info", "url_rule", "url_adapter"}

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
    found, seen = [], set()
    todo = [(f, 0) for f in functions_of(thing)]
    while todo and len(seen) < 400:
        f, depth = todo.pop()
        if f.__code__ in seen:
            continue
        seen.add(f.__code__)
        found.extend(w for w in writes(f) if w not in found)
        if depth < 4:
            todo.extend((g, depth + 1) for g in mentioned(f))
    return found


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


def mentioned(f):
    """Functions and classes of the same package that a function names."""
    package = (f.__globals__.get("__name__") or "").partition(".")[0]
    names, codes = set(), [f.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
    out = []
    for name in names:
        value = f.__globals__.get(name)
        values = [value]
        if inspect.ismodule(value):
            values = [getattr(value, n, None) for n in names if isinstance(getattr(value, n, None), (types.FunctionType, type))]
        for v in values:
            if (inspect.isfunction(v) or inspect.isclass(v)) and (getattr(v, "__module__", "") or "").partition(".")[0] == package:
                out.extend(functions_of(v))
    return out


def writes(f):
    where = f"{f.__module__}.{f.__qualname__}"
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(f)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return [f"{where} {what}" for what in writes_of_code(f.__code__)]
    reader = Reader()
    reader.visit(tree)
    line = f.__code__.co_firstlineno - 1
    return [f"{where} {what} (line {line + number})" for what, number in reader.judged()]


class Reader(ast.NodeVisitor):
    """Collects what a function does to a request."""

    def __init__(self):
        self.found = []
        self.fresh = set()  # names of dictionaries that the function makes of its own
        self.stale = set()
        self.resolves = False

    def judged(self):
        mine = self.fresh - self.stale
        return [(what, line) for name, what, line in self.found if name not in mine]

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
            (self.fresh if new else self.stale).add(target.id)
        elif isinstance(target, ast.Attribute):
            self.attribute(target, target.attr, target.value)
        elif isinstance(target, ast.Subscript):
            key = constant(target.slice)
            if key in ATTRIBUTES and last(target.value) == "__dict__":
                self.note(target, f"sets {key}")
            self.key(target, key, target.value)

    def attribute(self, node, name, receiver):
        if last(receiver) in ("self", "cls"):
            return
        if name in ATTRIBUTES or name == "method" and last(receiver) in ("request", "req", "_request", "http_request"):
            self.note(node, f"sets {last(receiver) or 'a request'}.{name}")
        elif name in ("scope", "environ", "META") and last(receiver) in ("request", "req", "_request"):
            self.note(node, f"replaces {last(receiver)}.{name}")

    def key(self, node, key, receiver):
        name = last(receiver)
        if key not in KEYS or key in PLAIN_KEYS and (name or "").lower() in HARMLESS:
            return
        self.note(node, f"sets {name or ''}[{key!r}]", receiver.id if isinstance(receiver, ast.Name) else None)

    def update(self, node, receiver, keys):
        for key in keys:
            if key is not None:
                self.key(node, constant(key), receiver)

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
        if name == "set_urlconf":
            self.note(node, "calls set_urlconf")
        elif name == "setattr" and len(node.args) == 3:
            text = constant(node.args[1])
            if text is None and last(node.args[0]) in ("request", "req", "scope"):
                self.note(node, "sets an attribute of the request by a name that is made up")
            elif isinstance(text, str):
                self.attribute(node, text, node.args[0])
        elif name == "dict" and node.args:
            self.update(node, ast.Name("copy"), keywords)
        elif name in ("update", "__setitem__", "pop", "setdefault", "replace", "_replace") and receiver is not None:
            first = node.args[0] if node.args else None
            keys = first.keys if isinstance(first, ast.Dict) else []
            if name in ("__setitem__", "pop", "setdefault"):
                keys = [first] if first is not None else []
            if name in ("update", "__setitem__", "pop", "setdefault"):
                self.update(node, receiver, keys + keywords)
        elif name == "func" and receiver is not None:
            self.note(node, "calls a view by itself")
        elif isinstance(node.func, ast.Subscript) and last(node.func.value) == "view_functions":
            self.note(node, "calls a view by itself")
        self.generic_visit(node)


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
