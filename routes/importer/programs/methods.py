"""Which methods a view of Django's answers other than with 405, where it says so. Where the code decides, it is any."""

FRAMEWORKS = ("django", "rest_framework")


def frameworks_own(function):
    """Whether a function, with what wraps it, is the framework's own."""
    while function is not None:
        module = (getattr(function, "__globals__", None) or {}).get("__name__") or ""
        if module.partition(".")[0] not in FRAMEWORKS:
            return False
        for cell in getattr(function, "__closure__", None) or ():  # method_decorator holds its decorators
            value = contents(cell)
            decorators = value if isinstance(value, (list, tuple)) else [value]
            for d in decorators:
                if inspect.isfunction(d) and d is not getattr(function, "__wrapped__", None) and not frameworks_own(d):
                    return False
        function = getattr(function, "__wrapped__", None)
    return True


def decides_itself(cls):
    """Whether a class of views has code of its own that may answer any method."""
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in FRAMEWORKS or base is object:
            continue
        own = vars(base)
        if "__getattr__" in own or "__getattribute__" in own:
            return True
        for name in ("dispatch", "http_method_not_allowed", "initialize_request", "as_view"):
            f = own.get(name)
            f = getattr(f, "__func__", f)
            if f is not None and not frameworks_own(f):
                return True
        for name in ("__init__", "setup", "initial", "as_view", "__init_subclass__", "__new__"):
            f = own.get(name)
            f = getattr(f, "__func__", f)
            if inspect.isfunction(f) and sets_handlers(f.__code__):
                return True
    return False


HANDLERS = {"get", "post", "put", "patch", "delete", "head", "options", "trace"}


def sets_handlers(code):
    for i in dis.get_instructions(code):
        if i.opname == "STORE_ATTR" and (i.argval in HANDLERS or i.argval in ("http_method_names", "dispatch", "http_method_not_allowed")):
            return True
        if i.opname.startswith("LOAD") and i.argval == "setattr":
            return True
    return False


def view_methods(view):
    """The methods that a view answers other than with 405, where it says so; None is any."""
    found, layer = None, view
    for _ in range(32):
        names = getattr(getattr(layer, "__code__", None), "co_freevars", ())
        if "request_method_list" in names and module_of(layer) == "django.views.decorators.http":
            listed = set(contents(layer.__closure__[names.index("request_method_list")]))
            found = listed if found is None else found & listed
        inner = getattr(layer, "__wrapped__", None)
        if inner is None:
            break
        if module_of(layer).partition(".")[0] not in FRAMEWORKS:
            return found  # a decorator of the application's own may answer what the view behind it would not
        layer = inner
    own = class_methods(layer, view)
    if own is None or found is None:
        return own if found is None else found
    return own & found


def module_of(function):
    return (getattr(function, "__globals__", None) or {}).get("__name__") or ""


def class_methods(layer, view):
    if module_of(layer).partition(".")[0] not in FRAMEWORKS:
        return None  # a function, or a class's that something else made
    actions = getattr(view, "actions", None)
    cls = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if cls is None or not hasattr(cls, "http_method_names") or decides_itself(cls):
        return None
    options = getattr(view, "view_initkwargs", None) or getattr(view, "initkwargs", None) or {}
    listed = {m.lower() for m in options.get("http_method_names", cls.http_method_names)}
    handled = set(actions) if isinstance(actions, dict) else set()
    if options.get("http_method_not_allowed") or HANDLERS & set(options):
        return None
    own = {m.upper() for m in listed if m in handled or hasattr(cls, m)}
    if "head" in listed and ("get" in handled or hasattr(cls, "get") and "get" in vars_of(cls)):
        own.add("HEAD")
    return own


def vars_of(cls):
    return {n for base in cls.__mro__ for n in vars(base)}
