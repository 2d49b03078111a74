"""Ends the interpreter when imported."""

import os
import sys

print("about to go", file=sys.stderr, flush=True)
os._exit(3)
