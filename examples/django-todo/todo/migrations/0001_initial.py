import datetime

from django.db import migrations, models


def some_todos(apps, _schema_editor):
    todo = apps.get_model("todo", "Todo")
    for owner, title, tag, due in [
        ("alice", "water the plants", "home", datetime.date(2026, 5, 4)),
        ("alice", "write the report", "work", datetime.date(2026, 5, 29)),
        ("bob", "repair the bicycle", "home", datetime.date(2026, 6, 1)),
    ]:
        todo.objects.create(owner=owner, title=title, tag=tag, due=due)


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Todo",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("owner", models.CharField(max_length=100)),
                ("title", models.CharField(max_length=200)),
                ("tag", models.SlugField(default="misc")),
                ("done", models.BooleanField(default=False)),
                ("due", models.DateField()),
            ],
            options={"ordering": ["id"]},
        ),
        migrations.RunPython(some_todos, migrations.RunPython.noop),
    ]
