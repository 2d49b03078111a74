"""Fails while it is imported."""

import json

settings = json.loads("{}")
print("noise on stdout")
secret = settings["database"]
