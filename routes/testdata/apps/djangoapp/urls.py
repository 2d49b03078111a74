from django.http import JsonResponse
from django.urls import include, path, re_path, register_converter
from django.views import View
from django.views.decorators.common import no_append_slash
from django.views.decorators.http import require_GET, require_http_methods


class YearConverter:
    regex = "[0-9]{4}"

    def to_python(self, value):
        return int(value)

    def to_url(self, value):
        return "%04d" % value


register_converter(YearConverter, "yyyy")


class EvenConverter:
    regex = "[0-9]+"

    def to_python(self, value):
        if int(value) % 2:
            raise ValueError
        return value

    def to_url(self, value):
        return str(value)


class NotConverter(EvenConverter):
    regex = "(?!admin)[^/]+"

    def to_python(self, value):
        return str(value)


register_converter(EvenConverter, "even")
register_converter(NotConverter, "not")


def reached(request, params):
    match = request.resolver_match
    return JsonResponse({"name": match.view_name, "route": match.route, "params": params})


def answer(name):
    def view(request, *args, **kwargs):
        params = {str(i): a for i, a in enumerate(args) if a is not None}
        return reached(request, params | kwargs)

    return view


def at(route, name):
    return path(route, answer(name), name=name)


def re_at(route, name):
    return re_path(route, answer(name), name=name)


class Todo(View):
    def get(self, request, **kwargs):
        return reached(request, kwargs)

    def put(self, request, **kwargs):
        return reached(request, kwargs)


class ReadOnly(View):
    http_method_names = ["get", "options"]

    def get(self, request, **kwargs):
        return reached(request, kwargs)


lines = [
    at("", "lines"),
    at("<int:line>/", "line"),
    at("<slug:slug>", "line_slug"),
    at("<path:rest>/tail", "line_tail"),
]

regexes = [
    re_at(r"^$", "re_root"),
    re_at(r"^(?P<year>[0-9]{4})/$", "re_year"),
    re_at(r"^(?P<year>[0-9]{4})/(?P<slug>[\w-]+)/?$", "re_slug"),
    re_at(r"^([a-z]+)/(\d+)/$", "re_positional"),
    re_at(r"end$", "re_search"),
    re_at(r"^open/(?P<x>\w+)", "re_open"),
    re_at(r"^opt(?:/(?P<page>\d+))?/$", "re_optional"),
    re_at(r"^files/(?P<name>.+)\.(?P<ext>jpe?g|png)$", "re_files"),
    path("plain/<int:n>/", answer("re_plain"), name="re_plain"),
]

urlpatterns = [
    at("", "index"),
    at("orders/", "orders"),
    at("orders/<int:id>/", "order"),
    at("orders/<slug:name>/", "order_slug"),
    at("orders/<str:any>/", "order_str"),
    path("orders/<int:id>/lines/", include(lines)),
    path("shop/<slug:shop>/", include(([at("a/<int:id>", "shop_a"), path("sub/", include(lines))], "shop"))),
    path("greedy/<path:p>/", include([at("x/", "greedy_x"), at("<int:n>/", "greedy_n")])),
    path("glued<int:a>", include([at("<int:b>/", "glued"), at("x", "glued_x")])),
    at("years/<yyyy:year>/", "year"),
    at("years/<int:year>/", "year_int"),
    at("uuid/<uuid:id>", "uuid"),
    at("files/<path:name>", "files"),
    at("noslash", "noslash"),
    at("both", "both"),
    at("both/", "both_slash"),
    at("mixed/<int:a>-<int:b>/", "mixed"),
    at("mixed/<str:a>.<str:ext>", "mixed_ext"),
    at("uni/caf\u00e9/<x>/", "unicode"),
    path("keep/<int:n>/", no_append_slash(answer("keep")), name="keep"),
    path("get/<int:n>/", require_GET(answer("get")), name="get"),
    path("post/", require_http_methods(["POST", "PUT"])(answer("post")), name="post"),
    path("todo/<int:id>/", Todo.as_view(), name="todo"),
    path("todo/read", ReadOnly.as_view(), name="read_only"),
    path("re/", include(regexes)),
    re_path(r"^lang/(?P<lang>en|de)/", include(lines)),
    re_path(r"^pos/(\d+)/", include([re_at(r"^(\w+)/$", "pos_two"), at("<int:n>", "pos_named")])),
    re_path(r"^named/(?P<n>\d+)/", include([re_at(r"^(\w+)/$", "named_then_positional")])),
    re_at(r"^top/(?P<a>\d+)(?:-(?P<b>\d+))?/$", "top"),
    re_at(r"^look(?=ahead)", "lookahead"),
    re_at(r"^spa/(?!api/)(?P<rest>.*)$", "spa"),
    re_at(r"^spa/api/(?P<x>\w+)(?<!x)$", "spa_api"),
    re_at(r"^twice/(?P<a>\w+)-(?P=a)/$", "twice"),
    re_at(r"^twice/(\w+)/\1$", "twice_positional"),
    re_at(r"^word/.*\bfoo\b", "word"),
    re_at(r"^spam/(?:(?!\.html).)*$", "spam"),
    at("even/<even:n>/", "even"),
    at("even/<int:n>/", "even_int"),
    at("even/<even:n>/<slug:s>/", "even_slug"),
    path("even/<even:n>/", include([at("x/", "even_x"), at("<even:m>/y", "even_y")])),
    at("even/<path:p>", "even_path"),
    at("not/<not:x>/", "not"),
    at("not/<not:x>/<int:n>", "not_int"),
    at("not/<path:p>", "not_path"),
    path("nothing/", include([])),
    at("nothing/here", "nothing_here"),
    path("", include([at("<str:last>/catch/", "catch")])),
]
