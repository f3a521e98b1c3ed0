"""The twins: with consent off (profile lab) the confused deputy works, so it is consent that stops it and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.oauth.conftest import DESK, identity
from tests.oauth.kit import Browser, Page, authorize_url, call, token_form
from tests.oauth.test_broker import Brokered
from tests.stack.kit import Stack
from tests.stand_ins.http_server import HttpUpstream, tool

EVIL = "https://evil.example/cb"


def attackers_client(stack: Stack) -> str:
    """A client that the attacker registers."""
    body = {"client_name": "Nice", "redirect_uris": [EVIL], "token_endpoint_auth_method": "none"}
    made = Browser(stack).ask("POST", "/oauth/register", json.dumps(body), Content_Type="application/json")
    return str(made.json["client_id"])


def stolen(stack: Stack, came: Page, client: str) -> bool:
    """Whether the attacker's sink got a code that it can use."""
    if not came.location.startswith(EVIL + "?") or "code" not in came.answer:
        return False
    form = token_form(stack, came.answer["code"], client_id=client, redirect_uri=EVIL)
    tokens = Browser(stack).post("/oauth/token", form)
    return tokens.status == 200 and call(stack, tokens.json["access_token"]) == 200


@pytest.mark.parametrize("off", [(), ("ask-consent",)], ids=["on", "off"])
def test_embedded_a_link_to_a_signed_in_user(tmp_path: Path, off: tuple[str, ...]) -> None:
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    stack = Stack(tmp_path, servers, off=off, tables={"identity": {**identity(), "clients": [DESK]}})
    try:
        stack.start()
        victim = Browser(stack).sign_in()
        client = attackers_client(stack)
        came = victim.get(authorize_url(stack, client_id=client, redirect_uri=EVIL))
        assert stolen(stack, came, client) is bool(off)
        if off:
            row = next(
                one
                for one in json.loads(stack.command("controls", "--json").stdout)
                if one["slug"] == "ask-consent"
            )
            assert (row["mode"], row["floor"], row["kind"]) == ("off", True, "posture")
    finally:
        stack.stop()
        servers["notes"].close()


@pytest.mark.node
@pytest.mark.parametrize("off", [(), ("ask-consent",)], ids=["on", "off"])
def test_broker_a_link_to_a_user_whom_the_provider_remembers(tmp_path: Path, off: tuple[str, ...]) -> None:
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    stack = Brokered(tmp_path, servers, off=off)
    try:
        stack.start()
        client, victim = attackers_client(stack), Browser(stack)
        before = stack.provider.authorizations()
        came = victim.get(authorize_url(stack, client_id=client, redirect_uri=EVIL))
        if came.location:
            came = victim.get(stack.provider.walk(came.location))
        assert stolen(stack, came, client) is bool(off)
        assert stack.provider.authorizations() == before + bool(off)
        # The second way in: the attacker agrees, and the victim's browser brings the answer (T-09).
        attacker = Browser(stack)
        page = attacker.get(authorize_url(stack, client_id=client, redirect_uri=EVIL))
        if not page.location:
            page = attacker.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
        came = Browser(stack).get(stack.provider.walk(page.location))
        assert stolen(stack, came, client) is bool(off)
    finally:
        stack.stop()
        stack.provider.close()
        servers["notes"].close()
