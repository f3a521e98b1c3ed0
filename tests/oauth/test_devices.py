"""Programs without a browser: a code on the device, consent in a browser elsewhere (RFC 8628)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from doorward.identity.clients import DEVICE, Client
from doorward.identity.devices import Devices, plain_code, shown_code
from doorward.identity.grants import Who
from doorward.identity.oauth_forms import OAuthRefusal, read_form
from tests.oauth.conftest import DESK, identity
from tests.oauth.kit import Browser, Page, auth_rows, call, link
from tests.stack.kit import Stack, running
from tests.stand_ins.http_server import HttpUpstream, tool
from tests.unit.identity.test_grants import RESOURCE, Bench

TV = {"id": "tv", "name": "Terminal", "grants": ["device_code", "refresh_token"]}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    with running(servers, tables={"identity": {**identity(), "clients": [DESK, TV]}}) as started:
        yield started


def begin(stack: Stack, client: str = "tv") -> Page:
    form = {"client_id": client, "resource": f"{stack.url}/notes/mcp", "scope": "mcp"}
    return Browser(stack).post("/oauth/device_authorization", form)


def poll(stack: Stack, device_code: str, client: str = "tv") -> Page:
    form = {"grant_type": DEVICE, "client_id": client, "device_code": device_code}
    return Browser(stack).post("/oauth/token", form)


def test_a_terminal_gets_tokens_once_its_user_agreed_elsewhere(stack: Stack) -> None:
    document = Browser(stack).get("/.well-known/oauth-authorization-server").json
    assert document["device_authorization_endpoint"] == f"{stack.url}/oauth/device_authorization"
    assert DEVICE in document["grant_types_supported"]
    began = begin(stack).json
    assert set(began) == {"device_code", "user_code", "verification_uri", "expires_in", "interval"}
    waiting = poll(stack, began["device_code"])
    assert (waiting.status, waiting.json["error"]) == (400, "authorization_pending")
    assert poll(stack, began["device_code"]).json["error"] == "slow_down"
    browser = Browser(stack)
    assert browser.get(began["verification_uri"]).status == 200
    page = browser.post("/oauth/device", {"user_code": began["user_code"].lower().replace("-", " ")})
    assert "Sign in first" in page.text
    page = browser.post("/oauth/login", {"transaction": page.hidden(), "ticket": link(stack)})
    assert began["user_code"] in page.body
    page = browser.post("/oauth/device", {"user_code": began["user_code"]})
    for word in (
        "Allow Terminal?",
        began["user_code"],
        "Nobody honest sends you a code",
        "alice",
        f"{stack.url}/notes/mcp",
    ):
        assert word in page.text
    done = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
    assert (done.status, "Your device is connected" in done.text) == (200, True)
    assert "location" not in done.fields
    tokens = poll(stack, began["device_code"])
    assert tokens.status == 200, tokens
    assert call(stack, tokens.json["access_token"]) == 200
    form = {"grant_type": "refresh_token", "client_id": "tv", "refresh_token": tokens.json["refresh_token"]}
    assert Browser(stack).post("/oauth/token", form).status == 200
    assert poll(stack, began["device_code"]).json["error"] == "expired_token"
    assert browser.post("/oauth/device", {"user_code": began["user_code"]}).status == 403
    for path in [*stack.data_dir.rglob("*"), stack.log_path]:
        if path.is_file():
            assert began["device_code"].encode() not in path.read_bytes()


def test_who_says_no_is_heard_at_the_device(stack: Stack) -> None:
    began = begin(stack).json
    browser = Browser(stack).sign_in()
    page = browser.post("/oauth/device", {"user_code": began["user_code"]})
    done = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "deny"})
    assert "refused" in done.text
    assert poll(stack, began["device_code"]).json["error"] == "access_denied"


def test_only_clients_of_the_settings_that_may_begin_one(stack: Stack) -> None:
    before = len(auth_rows(stack))
    refused = begin(stack, "desk")
    assert (refused.status, refused.json["error"]) == (400, "unauthorized_client")
    assert begin(stack, "nobody").status == 401
    assert len(auth_rows(stack)) == before + 2
    began = begin(stack).json
    stolen = poll(stack, began["device_code"], "desk")
    assert (stolen.status, stolen.json["error"]) == (400, "invalid_grant")
    assert poll(stack, "x" * 43).json["error"] == "expired_token"


def test_codes_cannot_be_guessed_at_leisure(stack: Stack) -> None:
    browser = Browser(stack).sign_in()
    statuses = [
        browser.post("/oauth/device", {"user_code": f"BBBB-BBB{one}"}).status
        for one in "BCDFGHJKLMNPQRSTVWXZBCDFGHJKLMN"
    ]
    assert set(statuses) == {403, 429}
    assert statuses[-1] == 429


def test_where_no_client_is_a_device_there_are_no_such_paths(tmp_path: Any) -> None:
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    with running(servers, tables={"identity": {**identity(), "clients": [DESK]}}) as plain:
        assert Browser(plain).get("/oauth/device").status == 404
        assert begin(plain).status == 404
        assert (
            "device_authorization_endpoint"
            not in Browser(plain).get("/.well-known/oauth-authorization-server").json
        )


# -- by a clock that is moved by hand --------------------------------------------------------------------------------

CLIENT = Client("tv", "Terminal", "settings", grants=(DEVICE,), version="1")


def asks(devices: Devices, code: str, now: float) -> str:
    try:
        devices.redeem(CLIENT, read_form(urlencode({"device_code": code})), now)
    except OAuthRefusal as error:
        return error.error
    return "tokens"


def test_a_device_that_asks_too_often_is_slowed_down_and_ends_to_the_second() -> None:
    bench = Bench()
    devices = Devices(bench.rows, bench.grants, frozenset({RESOURCE}))
    start = bench.clock.now()
    began = devices.begin(
        CLIENT, read_form(urlencode({"resource": RESOURCE})), "https://gate.example/oauth/device", start
    )
    heard = [asks(devices, began["device_code"], start + at) for at in (1, 6, 10.9, 20, 31, 31.1, 60)]
    assert heard == [
        "authorization_pending", "authorization_pending", "slow_down", "slow_down", "slow_down", "slow_down", "authorization_pending",
    ]  # fmt: skip
    assert devices.find(began["user_code"], start + 599.9).device == plain_code(began["user_code"])
    with pytest.raises(OAuthRefusal):
        devices.find(began["user_code"], start + 600)
    assert asks(devices, began["device_code"], start + 600) == "expired_token"


def test_an_agreement_counts_once() -> None:
    bench = Bench()
    devices = Devices(bench.rows, bench.grants, frozenset({RESOURCE}))
    now = bench.clock.now()
    began = devices.begin(
        CLIENT, read_form(urlencode({"resource": RESOURCE})), "https://gate.example/oauth/device", now
    )
    code = plain_code(began["user_code"])
    devices.decide(code, Who("alice"), now)
    with pytest.raises(OAuthRefusal):
        devices.decide(code, Who("mallory"), now)
    assert asks(devices, began["device_code"], now) == "tokens"
    assert asks(devices, began["device_code"], now) == "expired_token"
    assert shown_code(code) == began["user_code"]
