import functools

import django
import elsewhere
from django.core.handlers.wsgi import WSGIHandler
from django.urls import resolve, set_urlconf
from django.utils.deprecation import MiddlewareMixin


class Plain:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        self.urlconf = None
        request.tenant = request.get_host()
        name = resolve(request.path_info).url_name
        print({"path": request.path, "name": name})
        return self.get_response(request)


class ByHost(Plain):
    def __call__(self, request):
        if request.get_host() == "api":
            request.urlconf = "djangomw.admin"
        return self.get_response(request)


class Named(MiddlewareMixin):
    def process_request(self, request):
        setattr(request, "urlconf", "djangomw.admin")


class Path(MiddlewareMixin):
    def process_request(self, request):
        request.path_info = "/admin/"


class Method(MiddlewareMixin):
    def process_view(self, request, view, args, kwargs):
        request.method = "DELETE"


class Calls(Plain):
    def __call__(self, request):
        view, args, kwargs = resolve("/admin/")
        return view(request, *args, **kwargs)


class CallsMatch(Plain):
    def __call__(self, request):
        match = resolve("/admin/")
        return match.func(request, *match.args)


class CallsHeld(Plain):
    def __call__(self, request):
        view = resolve("/admin/").func
        return view(request)


class Vars(Plain):
    def __call__(self, request):
        vars(request)["urlconf"] = "djangomw.admin"
        return self.get_response(request)


class DictUpdate(Plain):
    def __call__(self, request):
        request.__dict__.update(urlconf="djangomw.admin")
        return self.get_response(request)


class ObjectSet(Plain):
    def __call__(self, request):
        object.__setattr__(request, "urlconf", "djangomw.admin")
        return self.get_response(request)


class Renamed(Plain):
    def __call__(self, r):
        r.method = "DELETE"
        return self.get_response(r)


class Elsewhere(Plain):
    def __call__(self, request):
        elsewhere.to_admin_urlconf(request)
        return self.get_response(request)


class Late(Plain):
    def __call__(self, request):
        from elsewhere import to_admin_urlconf

        to_admin_urlconf(request)
        return self.get_response(request)


class Helper(Plain):
    chooser = elsewhere.Chooser()

    def __call__(self, request):
        self.chooser.apply(request)
        return self.get_response(request)


def by_tenant(f):
    @functools.wraps(f)
    def inner(self, request):
        request.urlconf = "djangomw.admin"
        return f(self, request)

    return inner


def counted(f):
    @functools.wraps(f)
    def inner(*args, **kwargs):
        return f(*args, **kwargs)

    return inner


class Decorated(Plain):
    @counted
    @by_tenant
    def __call__(self, request):
        return self.get_response(request)


class Meta(Plain):
    def __call__(self, request):
        request.META["PATH_INFO"] = "/admin/"
        return self.get_response(request)


def choose(request):
    request.urlconf = "djangomw.admin"


class Base:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        self.setup(request)
        return self.get_response(request)


class Inherits(Base):
    def setup(self, request):
        choose(request)


def function(get_response):
    def middleware(request):
        set_urlconf("djangomw.admin")
        return get_response(request)

    return middleware


def plain_function(get_response):
    return lambda request: get_response(request)


def wrapped(handler):
    def application(environ, start_response):
        environ["PATH_INFO"] = "/admin/"
        return handler(environ, start_response)

    return application


class OwnHandler(WSGIHandler):
    def get_response(self, request):
        request.urlconf = "djangomw.admin"
        return super().get_response(request)


django.setup()
own_wsgi = OwnHandler()
changed_wsgi = wrapped(WSGIHandler())
same_wsgi = WSGIHandler()
