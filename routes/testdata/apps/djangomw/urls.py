from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("public/", lambda request: HttpResponse("public"))]
