"""Gatehouse, an external authorization server for Envoy. This package carries its program; gatehouse.testing asks it in tests."""

import os
import shutil
import sysconfig


def program():
    """The path of the gatehouse program: $GATEHOUSE, the one of this environment, or the one in PATH."""
    named = os.environ.get("GATEHOUSE")
    if named:
        return named
    for scheme in (None, *sysconfig.get_scheme_names()):
        folder = sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts")
        path = os.path.join(folder or "", "gatehouse")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    found = shutil.which("gatehouse")
    if found:
        return found
    raise FileNotFoundError("the gatehouse program is not installed: pip install gatehouse, or name it in $GATEHOUSE")
