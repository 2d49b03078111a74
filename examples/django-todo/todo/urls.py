from django.urls import path, re_path

from todo import views

urlpatterns = [
    path("", views.TodoList.as_view(), name="todo-list"),
    path("<int:pk>/", views.TodoDetail.as_view(), name="todo-detail"),
    path("tagged/<slug:tag>/", views.tagged, name="todo-tagged"),
    re_path(r"^due/(?P<year>20[0-9]{2})/(?P<month>[0-9]{2})/$", views.due, name="todo-due"),
    path("<str:owner>/list/", views.of_owner, name="todo-of-owner"),
]
