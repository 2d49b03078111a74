import functools
import json

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from django.conf import settings
from django.conf.urls.i18n import i18n_patterns
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import include, path, re_path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
from rest_framework import routers, viewsets
from rest_framework.decorators import action, api_view
from rest_framework.response import Response
from rest_framework.views import APIView


def reached(request, params):
    match = request.resolver_match
    return JsonResponse({"name": match.view_name, "params": {k: v for k, v in params.items() if v is not None}})


def at(route, name):
    def view(request, **kwargs):
        return reached(request, kwargs)

    return path(route, view, name=name)


class Things(viewsets.ViewSet):
    def list(self, request, **kwargs):
        return Response({"name": request.resolver_match.view_name, "params": {k: v for k, v in kwargs.items() if v}})

    retrieve = create = list

    def destroy(self, request, **kwargs):
        return self.list(request, **kwargs)

    @action(detail=True, methods=["post"])
    def publish(self, request, **kwargs):
        return self.list(request, **kwargs)


class Narrow(Things):
    http_method_names = ["get", "post"]

    def patch(self, request, **kwargs):
        return self.list(request, **kwargs)


class Extra(Things):
    def put(self, request, **kwargs):  # no action, and yet REST framework finds it
        return self.list(request, **kwargs)


class Confirm(View):
    def dispatch(self, request, *args, **kwargs):
        if request.method == "POST":
            return reached(request, kwargs)
        return super().dispatch(request, *args, **kwargs)

    def get(self, request):
        return reached(request, {})


class Late(View):
    def setup(self, request, *args, **kwargs):
        super().setup(request, *args, **kwargs)
        self.put = self.get

    def get(self, request):
        return reached(request, {})


class Refuses(View):
    def get(self, request):
        return reached(request, {})

    def http_method_not_allowed(self, request, *args, **kwargs):
        return reached(request, {})


def answers_posts(view):
    @functools.wraps(view)
    def wrapped(request, **kwargs):
        return reached(request, kwargs) if request.method == "POST" else view(request, **kwargs)

    return wrapped


@method_decorator(answers_posts, name="dispatch")
class Decorated(View):
    def get(self, request):
        return reached(request, {})


@method_decorator(require_POST, name="dispatch")
class Posts(View):
    def get(self, request):
        return reached(request, {})

    post = get


class Api(APIView):
    def get(self, request):
        return reached(request, {})


def plain(request, **kwargs):
    return reached(request, kwargs)


router = routers.DefaultRouter()
router.register("things", Things, basename="thing")
router.register("narrow", Narrow, basename="narrow")
router.register("extra", Extra, basename="extra")

methods = [
    path("confirm/", Confirm.as_view(), name="confirm"), path("late/", Late.as_view(), name="late"), path("refuses/", Refuses.as_view(), name="refuses"),
    path("decorated/", Decorated.as_view(), name="decorated"), path("posts/", Posts.as_view(), name="posts"), path("api/", Api.as_view(), name="api"),
    path("exempt/", csrf_exempt(require_GET(plain)), name="exempt"), path("outer/", answers_posts(require_GET(plain)), name="outer"),
    path("inner/", require_GET(answers_posts(plain)), name="inner"), path("wrapped/", answers_posts(Posts.as_view()), name="wrapped"),
    path("only/", Confirm.as_view(http_method_names=["get"]), name="only"),
    path("function/", api_view(["GET", "PUT"])(lambda request: reached(request._request, {})), name="function"),
]

urlpatterns = [at("health/", "health"), path("rest/", include(router.urls)), path("methods/", include(methods))]
urlpatterns += i18n_patterns(
    at("shop/<int:id>/", "shop"), at("<slug:any>/shop/<int:id>/", "any_shop"), path("deep/", include([at("<slug:s>", "deep")])),
    prefix_default_language=settings.PREFIX_DEFAULT,
)
urlpatterns += [at("api/<int:id>/", "api_id"), at("<path:rest>/end", "rest_end")]


def socket(name):
    async def application(scope, receive, send):
        route = scope["url_route"]
        params = route["kwargs"] or {str(i): a for i, a in enumerate(route["args"])}
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps({"name": name, "params": {k: str(v) for k, v in params.items()}})})

    return application


sockets = [
    path("ws/admin", socket("ws_admin"), name="ws_admin"), re_path(r"ws/chat/(?P<room>\w+)/$", socket("ws_chat"), name="ws_chat"),
    path("ws/<int:n>/", URLRouter([path("a/<slug:s>", socket("ws_slug"), name="ws_slug"), path("", socket("ws_empty"), name="ws_empty")])),
    re_path(r"^ws/(\w+)$", socket("ws_word"), name="ws_word"),
]
application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": OriginValidator(URLRouter(sockets), ["*"])})
