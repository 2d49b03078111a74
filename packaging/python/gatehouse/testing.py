"""What the policy of a gatehouse.yaml decides, for tests. The real engine is asked, by gatehouse check; nothing is started.

    from gatehouse.testing import assert_allowed, assert_denied

    def test_orders(client):
        assert_allowed("GET /orders/17", as_="vera", role="viewer")
        assert_denied("DELETE /orders/17", as_="vera", role="viewer", status=403)
        assert_allowed(client.get("/orders/17"), as_="vera", role="viewer")  # the request that a test client has made

A request is "METHOD /path", or the response of a test client of Flask, Django, Starlette or FastAPI. The caller is not verified: as_ is the name,
role one role or several; without as_ it is somebody who is not logged in. The configuration is ./gatehouse.yaml, $GATEHOUSE_CONFIG, or, with pytest,
gatehouse_config in its ini file or --gatehouse-config.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from . import program

TIMEOUT = 60  # seconds for one decision, the start of the program included

_config = None  # that pytest was told


@dataclass(frozen=True)
class Decision:
    """What was decided. It is true where the request is allowed."""

    allow: bool
    status: int
    reason: str = ""
    route: str = ""
    details: dict = field(default_factory=dict, repr=False)  # all that gatehouse check -o json prints
    asked: str = field(default="", repr=False)

    def __bool__(self):
        return self.allow


def decide(request, *, as_=None, role=None, claims=None, headers=None, body=None, config=None):
    """Decide one request. RuntimeError says what is wrong with the request or the configuration."""
    method, path, host = _request(request)
    command = [program(), "check", method, path, "-o", "json", "--config", _file(config)]
    if host:
        command += ["--host", host]
    if as_ is not None:
        command += ["--as", str(as_)]
    for one in [role] if isinstance(role, str) else role or []:
        command += ["--role", one]
    for name, value in (headers or {}).items():
        command += ["--header", f"{name}: {value}"]
    if body is not None:
        command += ["--body", body if isinstance(body, str) else json.dumps(body)]
    extra = {}
    if claims is not None:
        command += ["--claims", "/dev/stdin"]
        extra["input"] = json.dumps(claims)
    else:
        extra["stdin"] = subprocess.DEVNULL
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, **extra)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(done.stderr.strip() or f"gatehouse check ended with {done.returncode}")
    found = json.loads(done.stdout)
    route = (found.get("route") or {}).get("template", "")
    who = "nobody in particular" if as_ is None else f"{as_}, {role or 'without a role'}"
    return Decision(done.returncode == 0, found.get("status", 0), found.get("reason", ""), route, found, f"{method} {path} as {who}")


def assert_allowed(request, **who):
    """Fail unless the request is allowed."""
    __tracebackhide__ = True
    d = decide(request, **who)
    if not d:
        raise AssertionError(f"{d.asked}: denied with {d.status} {d.reason}".rstrip() + _why(d))
    return d


def assert_denied(request, *, status=None, reason=None, **who):
    """Fail unless the request is denied, with this status and this reason where they are given."""
    __tracebackhide__ = True
    d = decide(request, **who)
    if d:
        raise AssertionError(f"{d.asked}: allowed" + _why(d))
    if status is not None and d.status != status or reason is not None and d.reason != reason:
        raise AssertionError(f"{d.asked}: denied with {d.status} {d.reason}, not with {status or ''} {reason or ''}".rstrip())
    return d


def _why(d):
    lines = ""
    if d.route:
        lines += f"\n  route {d.route}"
    if d.details.get("rule"):
        lines += f"\n  rule {d.details['rule']}"
    if d.details.get("cause"):
        lines += f"\n  {d.details['cause']}"
    return lines


def _file(config):
    file = config or _config or os.environ.get("GATEHOUSE_CONFIG") or "gatehouse.yaml"
    if not os.path.isfile(file):
        raise RuntimeError(f"there is no {file}: gatehouse init writes one, gatehouse_config in pytest's ini file names another")
    return str(file)


def _request(request):
    """METHOD, path with query, and host of a text or of a test client's response."""
    if isinstance(request, str):
        method, _, path = request.partition(" ")
        if not path.startswith("/"):
            raise ValueError(f"{request!r}: write METHOD /path, as in GET /orders/17")
        return method, path, None
    made = getattr(request, "request", request)
    if isinstance(made, dict):  # Django's
        path, query = made["PATH_INFO"], made.get("QUERY_STRING", "")
        return made["REQUEST_METHOD"], path + ("?" + query if query else ""), None
    environ = getattr(made, "environ", None)
    if isinstance(environ, dict) and "REQUEST_METHOD" in environ:  # Werkzeug's
        url = urlsplit(made.url)
        return environ["REQUEST_METHOD"], environ.get("REQUEST_URI") or environ.get("RAW_URI") or url.path + ("?" + url.query if url.query else ""), None
    url = getattr(made, "url", None)
    if url is not None and hasattr(made, "method"):  # httpx's, as of Starlette and FastAPI
        raw = getattr(url, "raw_path", None)
        return made.method, raw.decode("ascii") if isinstance(raw, bytes) else str(url), None
    raise TypeError(f"{type(request).__name__} is no request: give METHOD /path, or the response of a test client")


def pytest_addoption(parser):
    """Pytest asks this of its plugins."""
    parser.addini("gatehouse_config", "the gatehouse.yaml that gatehouse.testing decides with, relative to the ini file")
    parser.getgroup("gatehouse").addoption("--gatehouse-config", default=None, help="the gatehouse.yaml that gatehouse.testing decides with")


def pytest_configure(config):
    """Take the configuration from pytest's."""
    global _config
    named, written = config.getoption("--gatehouse-config"), config.getini("gatehouse_config")
    if named:
        _config = os.path.abspath(named)
    elif written:
        _config = os.path.join(str(config.rootpath), written)
