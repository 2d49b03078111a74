"""To-do lists, JSON in and out."""

import json

from django.core.exceptions import ValidationError
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views import View
from django.views.decorators.http import require_safe

from todo.models import Todo


def as_list(todos):
    return JsonResponse({"todos": [todo.as_dict() for todo in todos]})


def save(todo, text):
    """Takes what the client may write from a JSON object; the answer is the to-do, or what is wrong with it."""
    try:
        body = json.loads(text)
        for field in ("owner", "title", "tag", "done", "due"):
            if field in body:
                setattr(todo, field, body[field])
        todo.full_clean()
    except (ValueError, TypeError, ValidationError) as error:
        return JsonResponse({"error": str(error)}, status=400)
    created = todo.pk is None
    todo.save()
    todo.refresh_from_db()
    return JsonResponse(todo.as_dict(), status=201 if created else 200)


class TodoList(View):
    def get(self, _request):
        return as_list(Todo.objects.all())

    def post(self, request):
        return save(Todo(), request.body)


class TodoDetail(View):
    def get(self, _request, pk):
        return JsonResponse(get_object_or_404(Todo, pk=pk).as_dict())

    def put(self, request, pk):
        return save(get_object_or_404(Todo, pk=pk), request.body)

    def delete(self, _request, pk):
        todo = get_object_or_404(Todo, pk=pk)
        todo.delete()
        return JsonResponse({"deleted": pk})


@require_safe
def tagged(_request, tag):
    return as_list(Todo.objects.filter(tag=tag))


@require_safe
def due(_request, year, month):
    return as_list(Todo.objects.filter(due__year=int(year), due__month=int(month)))


@require_safe
def of_owner(_request, owner):
    return as_list(Todo.objects.filter(owner=owner))
