"""What Django makes of a request: the twin of testdata/flask and testdata/fastapi, in one module. Test only."""

from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_http_methods, require_safe

SECRET_KEY = "test"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "settings"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]


@require_safe
def health(_request):
    return JsonResponse({"status": "ok"})


def secret(_request):
    return JsonResponse("the crown jewels", safe=False)


@require_http_methods(["GET", "POST", "PUT", "DELETE"])
def headers(request, kind):
    return JsonResponse({"method": request.method, "kind": kind, "headers": list(request.headers.items())})


urlpatterns = [
    path("healthz", health, name="health"),
    path("admin/secret", secret, name="secret"),
    path("headers/<str:kind>", headers, name="headers"),
]
