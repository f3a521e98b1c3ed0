"""What must not wait: told to receivers signed and once, whoever floods, and nothing of it shows to who caused it."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doorward.adapters.sealed_state import PREFIX
from doorward.adapters.state import FILE
from tests.stack.kit import Stack, at_once, running
from tests.stack.test_connect import call, link, stack_of
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream
from tests.stand_ins.oauth_server import OAuthServer, ProtectedUpstream

KEY = "webhook-key-7c1e"


@contextmanager
def watched(folder: Path, *, workers: int = 1) -> Iterator[tuple[Stack, OAuthServer, str]]:
    """A stack with a honeytoken and a receiver; the token."""
    receiver = OAuthServer()
    receiver.on["/hook"] = (200, {})
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    upstream = HttpUpstream()
    draft = Stack(folder, {"up": upstream})
    draft.write_settings()
    bait = json.loads(draft.command("secrets", "honeytoken", "backup share", "--json").stdout)
    tables = {
        "alerts": {
            "repeat_seconds": 3600,
            "webhooks": [{"url": f"http://{receiver.host}/hook", "secret": {"file": str(key)}}],
        },
        "secrets": {"honeytokens": [{"name": bait["name"], "sha256": bait["sha256"]}]},
        "network": {"allow": [receiver.host]},
    }
    try:
        with running({"up": upstream}, workers=workers, tables=tables) as stack:
            stack.wait_admin()
            yield stack, receiver, bait["token"]
    finally:
        receiver.close()


def posts(receiver: OAuthServer) -> list[dict[str, Any]]:
    return [one for one in receiver.asked if one["path"] == "/hook"]


def present(stack: Stack, token: str) -> Any:
    return stack.modern("up", "tools/list", Authorization=f"Bearer {token}")


def test_a_stolen_honeytoken_is_refused_like_any_other_and_somebody_hears_of_it(tmp_path: Path) -> None:
    with watched(tmp_path, workers=2) as (stack, receiver, token):
        assert stack.modern("up", "tools/list").status == 200, "ordinary traffic raises nothing"
        altered = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
        other = present(stack, altered)
        refused = present(stack, token)
        assert refused.status == other.status == 401
        for name in ("www-authenticate", "content-type"):
            assert refused.fields[name] == other.fields[name]
        said, usual = refused.json["error"], other.json["error"]
        assert {**said, "data": {**said["data"], "event": ""}} == {
            **usual,
            "data": {**usual["data"], "event": ""},
        }
        assert "honeytoken" not in refused.body.decode()

        until(lambda: posts(receiver), "the receiver's post")
        [post] = posts(receiver)
        told = json.loads(post["body"])
        assert (told["rule"], told["item"], told["server"], told["address"], told["count"]) == (
            "honeytoken", "backup share", "up", "127.0.0.1", 1,
        )  # fmt: skip
        stamp, _, mac = post["fields"]["x-doorward-signature"].removeprefix("t=").partition(",v1=")
        assert hmac.compare_digest(
            mac, hmac.new(KEY.encode(), stamp.encode() + b"." + post["body"], hashlib.sha256).hexdigest()
        )
        row = stack.row_of(refused)
        assert "honeytoken backup share" in row["reason"]
        assert [one["method"] for one in stack.rows(kind="alert")] == ["honeytoken"]

        # A flood is one alert with a count.
        at_once(8, lambda _: [present(stack, token) for _ in range(5)])
        listed = stack.command("alerts", "list", "--json")
        assert listed.returncode == 1
        [alert] = json.loads(listed.stdout)
        assert alert["rule"] == "honeytoken"
        assert len(posts(receiver)) == 1
        assert len(stack.rows(kind="alert")) == 1
        seen = (
            json.dumps(stack.rows())
            + stack.log()
            + listed.stdout
            + str([one["body"] for one in receiver.asked])
        )
        assert token not in seen
        assert KEY not in seen


def test_a_receiver_that_is_down_is_tried_again(tmp_path: Path) -> None:
    with watched(tmp_path) as (stack, receiver, token):
        receiver.on["/hook"] = (503, {})
        present(stack, token)
        until(lambda: len(posts(receiver)) >= 2, "a second try")
        receiver.on["/hook"] = (200, {})
        until(lambda: len(posts(receiver)) >= 3, "a third try")
        assert len({one["body"] for one in posts(receiver)}) == 1


def test_a_row_moved_to_another_owner_opens_for_nobody_and_raises_an_alert() -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(server, upstream) as stack:
        for user, theirs in (("alice", "ulla"), ("bob", "bert")):
            server.user = theirs
            link(stack, user)
            until(lambda user=user: call(stack, user).text == '{"a": 1}', "a call")
        stack.stop()
        with sqlite3.connect(stack.data_dir / FILE) as state:
            space = PREFIX + "upstream-tokens"
            rows = state.execute(
                "SELECT key, value FROM kept WHERE space = ? ORDER BY key", (space,)
            ).fetchall()
            assert len(rows) == 2
            state.execute(
                "UPDATE kept SET value = ? WHERE space = ? AND key = ?", (rows[0][1], space, rows[1][0])
            )
        state.close()
        stack.start()
        before = len(upstream.calls())
        answers = {user: call(stack, user) for user in ("alice", "bob")}
        fine = [user for user, answer in answers.items() if answer.code is None]
        assert len(fine) == 1, answers
        [victim] = {"alice", "bob"} - set(fine)
        assert answers[victim].code == -31007
        subjects = {(upstream.row(ask) or {})["subject"] for ask in upstream.calls()[before:]}
        assert subjects == {{"alice": "ulla", "bob": "bert"}[fine[0]]}
        until(lambda: stack.rows(kind="alert"), "the alert")
        [alert] = stack.rows(kind="alert")
        assert "sealed-broken" in alert["reason"]
        stack.wait_admin()
        until(lambda: stack.admin("/api/v1/alerts").json, "the alert in the list")
