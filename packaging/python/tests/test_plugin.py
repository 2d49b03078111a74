"""Run by make test-wheel, in an environment that has nothing but the wheel, pytest and Flask."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from flask import Flask

import gatehouse
from gatehouse.testing import assert_allowed, assert_denied, decide

POLICY = """package shop

default allow := false

allow if {
	input.attributes.request.http.method == "GET"
	"viewer" in input.identity.roles
}
"""
CONFIG = "policy: {decision: shop/allow, bundles: [{name: shop, path: ./policy}]}\n"


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "shop.rego").write_text(POLICY)
    (tmp_path / "gatehouse.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_program():
    for command in ([gatehouse.program()], [sys.executable, "-m", "gatehouse"]):
        out = subprocess.run([*command, "version"], capture_output=True, text=True, check=True).stdout
        assert out.startswith("gatehouse ")


def test_decisions():
    assert_allowed("GET /orders/17", as_="vera", role="viewer")
    assert_allowed("GET /orders?a=1", as_="vera", role=["viewer", "clerk"])
    assert_denied("DELETE /orders/17", as_="vera", role="viewer", status=403)
    assert_denied("GET /orders/17", status=403, reason="denied")
    assert_allowed("GET /orders/17", claims={"sub": "vera", "roles": ["viewer"]})
    assert not decide("GET /", as_="vera")


def test_client():
    app = Flask(__name__)
    app.add_url_rule("/orders/<id>", view_func=lambda id: id, endpoint="order", methods=["GET", "DELETE"])
    client = app.test_client()
    assert_allowed(client.get("/orders/17?x=1"), as_="vera", role="viewer")
    d = assert_denied(client.delete("/orders/17"), as_="vera", role="viewer")
    assert d.asked.startswith("DELETE /orders/17 as vera")
    httpx = SimpleNamespace(request=SimpleNamespace(method="GET", url=SimpleNamespace(raw_path=b"/orders/1%20?x")))
    assert assert_allowed(httpx, as_="vera", role="viewer").asked.startswith("GET /orders/1%20?x as")
    django = SimpleNamespace(request={"REQUEST_METHOD": "PUT", "PATH_INFO": "/orders/1", "QUERY_STRING": "y=2"})
    assert assert_denied(django, as_="vera", role="viewer").asked.startswith("PUT /orders/1?y=2 as")


def test_failures(shop):
    with pytest.raises(AssertionError, match=r"GET /orders as vera, without a role: denied with 403 denied"):
        assert_allowed("GET /orders", as_="vera")
    with pytest.raises(AssertionError, match=r"GET /orders as vera, viewer: allowed"):
        assert_denied("GET /orders", as_="vera", role="viewer")
    with pytest.raises(AssertionError, match=r"denied with 403 denied, not with 401"):
        assert_denied("GET /orders", status=401)
    with pytest.raises(ValueError, match="write METHOD /path"):
        decide("orders")
    with pytest.raises(TypeError, match="int is no request"):
        decide(1)
    (shop / "policy" / "shop.rego").write_text("package shop\nallow if tru\n")
    with pytest.raises(RuntimeError, match=r"shop\.rego:2"):
        decide("GET /orders")
    (shop / "gatehouse.yaml").unlink()
    with pytest.raises(RuntimeError, match="there is no gatehouse.yaml"):
        decide("GET /orders")


def test_ini(pytester, shop):
    (pytester.path / "conf").mkdir()
    (shop / "policy").rename(pytester.path / "conf" / "policy")
    (pytester.path / "conf" / "gatehouse.yaml").write_text(CONFIG)
    pytester.makeini("[pytest]\ngatehouse_config = conf/gatehouse.yaml\n")
    pytester.makepyfile("from gatehouse.testing import assert_allowed\ndef test():\n    assert_allowed('GET /', as_='vera', role='viewer')\n")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


pytest_plugins = ["pytester"]
