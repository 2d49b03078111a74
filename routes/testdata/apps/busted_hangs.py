"""Serves itself when imported."""

import threading

threading.Event().wait()
