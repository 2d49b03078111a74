from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.http import require_safe


@require_safe
def page(request, **kwargs):
    return HttpResponse("page", headers={"x-app": "page"})


def socket(name):
    async def application(scope, receive, send):
        await send({"type": "websocket.accept", "headers": [(b"x-app", name)]})
        await send({"type": "websocket.close"})

    return application


urlpatterns = [path("ws/news", page), path("<path:path>", page)]
application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": URLRouter([path("ws/admin", socket(b"admin"), name="admin"), path("ws/news", socket(b"news"), name="news")]),
})
