from django.db import models


class Todo(models.Model):
    owner = models.CharField(max_length=100)
    title = models.CharField(max_length=200)
    tag = models.SlugField(default="misc")
    done = models.BooleanField(default=False)
    due = models.DateField()

    class Meta:
        ordering = ["id"]

    def as_dict(self):
        return {
            "id": self.id,
            "owner": self.owner,
            "title": self.title,
            "tag": self.tag,
            "done": self.done,
            "due": self.due.isoformat(),
        }
