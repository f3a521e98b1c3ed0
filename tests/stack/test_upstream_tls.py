"""TLS towards protected servers: authorities, pins, client certificates, and how they change while Doorward serves."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stack.kit import Stack, running
from tests.stack.wire import Answer, until
from tests.stand_ins.authority import Authority, Leaf
from tests.stand_ins.http_server import HttpUpstream

OTHER_PIN = "sha256/" + "A" * 43 + "="


def context_of(leaf: Leaf, clients: Authority | None = None) -> ssl.SSLContext:
    """What a server shows, and whom it lets in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.cert_path, leaf.key_path)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.path)
    return context


class World:
    """A Doorward before one HTTPS server; ``tls`` is the server's table in the settings."""

    def __init__(self, stack: Stack, upstream: HttpUpstream, authority: Authority) -> None:
        self.stack, self.upstream, self.authority = stack, upstream, authority

    def call(self, era: str = "modern") -> Answer:
        return self.stack.call(era, "time", arguments={"text": "x"})

    def change(self, **tls: Any) -> None:
        """Put other settings in force."""
        before = self.stack.admin("/api/v1/status").json["revision"]
        self.stack.write_settings(
            self.stack.settings_text(
                **{"servers.time": {"tls": {"ca_file": str(self.authority.path), **tls}}}
            )
        )
        until(lambda: self.stack.admin("/api/v1/status").json["revision"] > before, "the new settings")
        until(
            lambda: len({*self.stack.admin("/api/v1/status").json["generations"]}) == 1,
            "the workers to know of them",
        )

    def seen(self) -> dict[str, Any]:
        """What the admin plane says of the server's certificate."""
        rows = self.stack.admin("/api/v1/certificates").json
        return next((row for row in rows if row["where"] == "upstream time"), {})


@contextmanager
def world(folder: Path, *, workers: int = 1, clients: Authority | None = None, **tls: Any) -> Iterator[World]:
    authority = Authority(folder)
    leaf = authority.issue("upstream")
    upstream = HttpUpstream(tls=context_of(leaf, clients))
    table = {"tls": {"ca_file": str(authority.path), **tls}}
    with running({"time": upstream}, workers=workers, tables={"servers.time": table}) as stack:
        yield World(stack, upstream, authority)


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_private_authority_is_enough_and_the_certificate_is_listed(tmp_path: Path, era: str) -> None:
    with world(tmp_path) as one:
        assert one.call(era).status == 200 and "result" in one.call(era).json
        row = until(one.seen, "the certificate on the list")
        assert row["state"] == "accepted" and row["spki"].startswith("sha256/") and row["days_left"] > 20


@pytest.mark.parametrize("fault", ["stranger", "name", "expired", "self-signed"])
def test_a_server_whose_certificate_does_not_hold_never_sees_a_request(tmp_path: Path, fault: str) -> None:
    with world(tmp_path) as one:
        assert one.call().status == 200
        bad = {
            "stranger": lambda: Authority(tmp_path, "stranger").issue("bad"),
            "name": lambda: one.authority.issue("bad", hosts=("elsewhere.example",)),
            "expired": lambda: one.authority.issue("bad", days=(-9, -1)),
            "self-signed": lambda: Authority(tmp_path, "self").issue("bad"),
        }[fault]()
        one.upstream.tls = context_of(bad)
        one.upstream.cut()
        hits = one.upstream.hits

        def refused() -> Answer | None:
            answer = one.call()
            return (
                answer
                if answer.code == -31008
                and answer.json["error"]["data"].get("cause") == "upstream-certificate"
                else None
            )

        answer = until(refused, "the refusal")
        assert "certificate" in answer.json["error"]["message"]
        assert one.upstream.hits == hits


def test_another_key_from_a_trusted_authority_is_refused_or_reported_as_the_settings_say(
    tmp_path: Path,
) -> None:
    with world(tmp_path, workers=2) as one:
        assert one.call().status == 200
        pin = until(one.seen, "the certificate on the list")["spki"]
        backup = one.authority.issue("backup")
        # Pinned with a backup: the right key passes.
        one.change(pin=[pin, backup.pin])
        assert "result" in one.call().json
        # An attacker with a certificate of the same authority: refused, on record, and the server is not asked.
        evil = one.authority.issue("evil")
        one.upstream.tls = context_of(evil)
        one.upstream.cut()
        hits = one.upstream.hits
        answer = until(lambda: (found := one.call()).code == -31008 and found, "the refusal")
        answer = one.call()
        assert answer.json["error"]["data"]["cause"] == "upstream-pin"
        assert "pinned" in answer.json["error"]["message"]
        assert one.upstream.hits == hits
        row = until(
            lambda: next(
                (row for row in one.stack.rows(kind="alert") if row["method"] == "upstream-pin-broken"), None
            ),
            "the record",
        )
        assert (row["verdict"], row["server"]) == ("refuse", "time") and evil.pin in row["reason"]
        assert one.seen()["state"] == "refused"
        assert "shows a key that is not pinned" in one.stack.command("doctor").stdout
        # The backup key takes over without a change of settings.
        one.upstream.tls = context_of(backup)
        assert "result" in until(lambda: (found := one.call()).code is None and found, "the backup key").json
        # Report: it passes, and is on record.
        one.upstream.tls = context_of(evil)
        one.change(pin=[pin, backup.pin], mode="report")
        one.upstream.cut()
        assert "result" in until(lambda: (found := one.call()).code is None and found, "a reported call").json
        until(lambda: one.seen().get("state") == "reported", "the report")
        state = next(row for row in one.stack.admin("/api/v1/controls").json if row["slug"] == "keep-tls")
        assert state["state"] == "degraded" and "report" in state["why"]
        weak = [row for row in one.stack.rows(kind="admin") if row["method"] == "control-weakened"]
        assert [(row["server"], row["control"]) for row in weak] == [("time", "keep-tls")]
        assert "tls.mode" in one.stack.command("check").stdout


def test_a_new_pin_holds_at_once_for_kept_connections_too(tmp_path: Path) -> None:
    with world(tmp_path, workers=2) as one:
        for _ in range(4):
            assert "result" in one.call().json  # connections are kept now
        hits = one.upstream.hits
        one.change(pin=[OTHER_PIN, OTHER_PIN[:-3] + "AE="])
        for _ in range(4):
            answer = one.call()
            assert answer.code == -31008 and answer.json["error"]["data"]["cause"] == "upstream-pin"
        assert one.upstream.hits == hits


def test_doorward_shows_its_certificate_to_a_server_that_wants_one_and_takes_a_new_one(
    tmp_path: Path,
) -> None:
    clients = Authority(tmp_path, "clients")
    mine = clients.issue("doorward", client=True)
    with world(
        tmp_path, clients=clients, client_cert=str(mine.cert_path), client_key={"file": str(mine.key_path)}
    ) as one:
        assert "result" in one.call().json
        shown: list[str] = []
        one.upstream.on["tools/call"] = lambda ask: shown.append(
            f"{int((ask.conn.getpeercert() or {})['serialNumber'], 16):x}"  # type: ignore[attr-defined]
        ) or {"content": [{"type": "text", "text": "ok"}], "resultType": "complete"}  # fmt: skip
        one.call()
        assert shown[-1] == mine.serial
        fresh = clients.issue("fresh", client=True)
        fresh.write(mine.cert_path, mine.key_path)
        until(lambda: one.call() and shown[-1] == fresh.serial, "the new certificate")
        assert "PRIVATE KEY" not in one.stack.log()


def test_without_a_client_certificate_such_a_server_is_a_failed_upstream(tmp_path: Path) -> None:
    with world(tmp_path, clients=Authority(tmp_path, "clients")) as one:
        answer = one.call()
        assert answer.code == -31008
        assert one.upstream.hits == 0


def test_two_servers_at_one_address_do_not_share_connections_when_one_is_pinned(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    upstream = HttpUpstream(tls=context_of(authority.issue("upstream")))
    ca = {"ca_file": str(authority.path)}
    tables = {
        "servers.time": {"tls": ca},
        "servers.bound": {"url": upstream.url, "tls": {**ca, "pin": [OTHER_PIN]}},
    }
    with running({"time": upstream}, tables=tables) as stack:
        for _ in range(3):
            assert "result" in stack.call("modern", "time").json
            answer = stack.call("modern", "bound")
            assert answer.json["error"]["data"]["cause"] == "upstream-pin"
        assert "one pin only" in stack.command("doctor").stdout
