"""Tokens that are bound to a key or a certificate, before a running Doorward: stolen ones open nothing."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doorward.cli.token import mint_token
from doorward.identity.binding import Confirmation
from doorward.settings import load
from tests.stack.kit import Stack, at_once, environment, running
from tests.stack.test_tls import secured
from tests.stack.wire import Answer, Wire, until
from tests.stand_ins.authority import Leaf
from tests.stand_ins.http_server import HttpUpstream
from tests.stand_ins.proofs import Holder

URL = "/time/mcp"


def minted(stack: Stack, **bound: str) -> str:
    """A token bound to a ``key`` or ``certificate``."""
    with environment(DOORWARD_LAB="1") if stack.off else environment():
        settings = load(stack.config).settings
    return mint_token(settings, user="alice", server="time", confirmation=Confirmation(**bound)).access_token


class Prover:
    """A client that does as RFC 9449 says: it keeps the last nonce and comes again when it is asked for another."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.holder = Holder()
        self.token = minted(stack, key=self.holder.jkt)
        self.nonce: str | None = None

    def fields(self, verb: str = "POST", **changes: Any) -> dict[str, str]:
        proof = self.holder.proof(
            self.stack.url + URL, self.token, **{"verb": verb, "nonce": self.nonce, **changes}
        )
        return {"Authorization": f"DPoP {self.token}", "DPoP": proof}

    def learn(self) -> None:
        """Get a nonce."""
        answer = self.stack.modern("time", "tools/list", **self.fields(nonce=None))
        assert answer.status == 401
        assert answer.fields["www-authenticate"].startswith('DPoP error="use_dpop_nonce"')
        self.nonce = answer.fields["dpop-nonce"]

    def call(self, era: str, **changes: Any) -> Answer:
        """One call of a tool."""
        if era == "modern":
            return self.stack.call("modern", "time", arguments={"text": "x"}, **self.fields(**changes))
        answer = self.stack.initialize("time", **self.fields())
        assert answer.status == 200, answer
        session = answer.fields["mcp-session-id"]
        done = self.stack.legacy("time", session, "notifications/initialized", id=None, **self.fields())
        assert done.status == 202, done
        params = {"name": "echo", "arguments": {}}
        return self.stack.legacy("time", session, "tools/call", params, **self.fields(**changes))


@contextmanager
def proving(**more: Any) -> Iterator[tuple[Stack, Prover, HttpUpstream]]:
    upstream = HttpUpstream()
    with running({"time": upstream}, **more) as stack:
        prover = Prover(stack)
        if not stack.off:
            prover.learn()
        yield stack, prover, upstream


def calls(upstream: HttpUpstream) -> int:
    """How often the tool was called."""
    return sum(1 for ask in upstream.asks if (ask.json or {}).get("method") == "tools/call")


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_proven_call_goes_through_and_a_stolen_token_does_not(era: str) -> None:
    with proving(workers=2) as (stack, prover, upstream):
        answer = prover.call(era)
        assert answer.status == 200 and "result" in answer.json, answer
        assert calls(upstream) == 1
        thief = Prover(stack)
        thief.nonce = prover.nonce
        thief.token = prover.token  # the token without its key
        attempts = {
            "as a bearer token": {"Authorization": f"Bearer {prover.token}"},
            "as a bearer token with a proof": {**prover.fields(), "Authorization": f"Bearer {prover.token}"},
            "without a proof": {"Authorization": f"DPoP {prover.token}"},
            "with another key": thief.fields(),
            "for another method": prover.fields(htm="GET"),
            "for another server": prover.fields(htu=f"{stack.url}/mcp"),
            "of another host": prover.fields(htu="https://evil.example/time/mcp"),
            "for another token": prover.fields(ath="A" * 43),
            "long ago": prover.fields(iat=1_700_000_000),
            "without a nonce": prover.fields(nonce=None),
            "with a made-up nonce": prover.fields(nonce="A" * 48),
            "twice in one request": {**prover.fields(), "DPoP": [prover.fields()["DPoP"]] * 2},
        }
        for name, fields in attempts.items():
            stolen: Any = (
                stack.call(era, "time", **fields) if era == "modern" else stack.initialize("time", **fields)
            )
            assert stolen.status == 401, (name, stolen)
            assert stolen.control == "bind-token", name
            assert re.match(r'DPoP error="(invalid_token|invalid_dpop_proof|use_dpop_nonce)"',
                            stolen.fields["www-authenticate"]), name  # fmt: skip
            assert stack.row_of(stolen)["control"] == "bind-token"
        assert calls(upstream) == 1
        assert prover.call(era).status == 200  # and the holder goes on


def test_a_proof_counts_once_over_all_workers_and_connections() -> None:
    with proving(workers=3) as (stack, prover, upstream):
        for _ in range(4):
            fields = prover.fields()
            found = at_once(12, lambda _: stack.call("modern", "time", **fields))  # noqa: B023 - done within the round
            assert sorted(one.status for one in found) == [200] + [401] * 11
            used = next(one for one in found if one.status == 401)
            assert "used before" in stack.row_of(used)["reason"]
        assert calls(upstream) == 4
        # On one connection, byte for byte the same request again: the memo of heads must not answer for it.
        body, more = stack.modern_message("tools/call", {"name": "echo", "arguments": {}})
        request = stack.request("time", body, **more, **prover.fields())
        with stack.wire() as wire:
            wire.send(request * 3)
            assert [wire.read().status for _ in range(3)] == [200, 401, 401]
        assert calls(upstream) == 5


def test_a_used_proof_stays_used_when_doorward_starts_again() -> None:
    for nonce in ("required", "optional"):
        with proving(workers=1, tables={"identity": {"dpop_nonce": nonce}}) if nonce == "required" else running(
            {"time": HttpUpstream()}, tables={"identity": {"dpop_nonce": nonce}}
        ) as made:  # fmt: skip
            stack, prover = (made[0], made[1]) if isinstance(made, tuple) else (made, Prover(made))
            if nonce == "optional":
                # For the first seconds nothing without a nonce is taken; then proofs without one are.
                until(lambda: prover.call("modern").status == 200, "proofs without a nonce")  # noqa: B023
            fields = prover.fields()
            assert stack.call("modern", "time", **fields).status == 200
            stack.stop()
            stack.start()
            again = stack.call("modern", "time", **fields)
            assert again.status == 401
            assert 'error="use_dpop_nonce"' in again.fields["www-authenticate"]
            prover.nonce = again.fields["dpop-nonce"]
            assert prover.call("modern").status == 200


def test_with_the_control_off_the_stolen_token_works() -> None:
    with proving(off=("bind-token",)) as (stack, prover, upstream):
        assert stack.call("modern", "time", Authorization=f"Bearer {prover.token}").status == 200
        assert calls(upstream) == 1


def test_a_supervisor_that_cannot_say_whether_a_proof_was_used_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from doorward.app import proofs

    full = proofs.Marks()
    monkeypatch.setattr(proofs, "MARKS_COUNT", 0)
    assert full.use("k", "d", 9e9) == "full"
    from doorward.controls.control import ProofMark, Refuse
    from doorward.gateway.proofs import ProofDesk

    heard: list[bool | None] = []
    mark = ProofMark("k", "d", 9e9, used=Refuse("", ""), unknown=Refuse("", ""))
    for word in ("full", None, True, 1, "FIRST", ["first"]):
        ProofDesk(lambda payload, then, word=word: then(word)).use(mark, heard.append)  # type: ignore[misc]
    assert heard == [None] * 6


def test_proofs_and_tokens_are_not_on_record_or_in_the_log() -> None:
    with proving() as (stack, prover, _):
        fields = prover.fields()
        stack.call("modern", "time", **fields)
        stack.call("modern", "time", **fields)
        parts = [*fields["DPoP"].split("."), *prover.token.split(".")]
        until(lambda: len(stack.rows()) >= 3, "records")
        written = stack.log() + "".join(
            path.read_bytes().decode("latin-1")
            for path in (stack.data_dir / "ledger").rglob("*")
            if path.is_file()
        )
        assert not any(part in written for part in parts[1:3] + parts[4:])


# -- certificates ------------------------------------------------------------------------------------------------------


@contextmanager
def mutual(folder: Path, **tls: Any) -> Iterator[tuple[Stack, Leaf, Leaf, Any]]:
    """A Doorward that asks clients for certificates, two clients, and how to speak as one of them."""
    from tests.stand_ins.authority import Authority

    clients = Authority(folder, "clients")
    alice, bob = clients.issue("alice", client=True), clients.issue("bob", client=True)
    with secured(folder, workers=2, client_ca=str(clients.path), **tls) as (stack, authority, _):

        def speak(leaf: Leaf | None) -> ssl.SSLContext:
            return authority.client_context(leaf)

        yield stack, alice, bob, speak


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_token_bound_to_a_certificate_is_good_over_its_connections_only(tmp_path: Path, era: str) -> None:
    with mutual(tmp_path) as (stack, alice, bob, speak):
        token = minted(stack, certificate=alice.thumbprint)
        fields = {"Authorization": f"Bearer {token}"}

        def tries(leaf: Leaf | None) -> Answer:
            stack.tls = speak(leaf)
            if era == "modern":
                return stack.call("modern", "time", **fields)
            return stack.initialize("time", **fields)

        upstream = stack.servers["time"]
        assert isinstance(upstream, HttpUpstream)
        assert tries(alice).status == 200
        before = len(upstream.asks)
        for _ in range(6):  # over and over, so that every worker has seen alice's head by now
            for leaf in (bob, None):
                answer = tries(leaf)
                assert (answer.status, answer.control) == (401, "bind-token")
                assert answer.fields["www-authenticate"].startswith('Bearer error="invalid_token"')
        assert len(upstream.asks) == before
        assert tries(alice).status == 200


def test_many_connections_at_once_never_lend_each_other_a_certificate(tmp_path: Path) -> None:
    with mutual(tmp_path) as (stack, alice, bob, speak):
        tokens = {leaf: minted(stack, certificate=leaf.thumbprint) for leaf in (alice, bob)}
        body, more = stack.modern_message("tools/list")
        requests = {
            leaf: stack.request("time", body, **more, Authorization=f"Bearer {token}")
            for leaf, token in tokens.items()
        }
        wrong: list[Any] = []
        lock = threading.Lock()

        def run(index: int) -> None:
            shown = (alice, bob, None)[index % 3]
            with Wire(stack.port, tls=speak(shown)) as wire:
                for turn in range(30):
                    asked = (alice, bob)[(index + turn) % 2]
                    wire.send(requests[asked])
                    status = wire.read().status
                    if status != (200 if asked is shown else 401):
                        with lock:
                            wrong.append((index, turn, status))

        at_once(9, run)
        assert wrong == []


def test_a_session_of_the_older_era_does_not_carry_a_certificate_over(tmp_path: Path) -> None:
    with mutual(tmp_path) as (stack, alice, bob, speak):
        fields = {"Authorization": f"Bearer {minted(stack, certificate=alice.thumbprint)}"}
        stack.tls = speak(alice)
        session = stack.session("time", **fields)
        for leaf, status in ((alice, 200), (bob, 401), (None, 401), (alice, 200)):
            stack.tls = speak(leaf)
            for _ in range(4):  # on whichever worker
                assert stack.legacy("time", session, "tools/list", **fields).status == status


def test_when_the_authority_is_taken_back_open_connections_prove_nothing_any_more(tmp_path: Path) -> None:
    from tests.stand_ins.authority import Authority

    with mutual(tmp_path) as (stack, alice, _, speak):
        body, more = stack.modern_message("tools/list")
        request = stack.request(
            "time", body, **more, Authorization=f"Bearer {minted(stack, certificate=alice.thumbprint)}"
        )
        wires = [Wire(stack.port, tls=speak(alice)) for _ in range(6)]
        for wire in wires:
            wire.send(request)
            assert wire.read().status == 200
        others = Authority(tmp_path, "others")
        (tmp_path / "clients.pem").write_bytes(others.pem)
        ends = []
        for wire in wires:
            until(lambda: wire.is_closed(), "the end of an idle connection that proved a certificate")  # noqa: B023
            ends.append(True)
            wire.close()
        assert len(ends) == 6
        with pytest.raises((ssl.SSLError, ConnectionError)), Wire(stack.port, tls=speak(alice)) as wire:
            wire.sock.sendall(request)
            wire.read()


def test_a_forwarded_certificate_header_proves_nothing(tmp_path: Path) -> None:
    with mutual(tmp_path) as (stack, alice, _, speak):
        fields = {"Authorization": f"Bearer {minted(stack, certificate=alice.thumbprint)}"}
        pem = "".join(alice.pem.decode().split("\n")[1:-2])
        stack.tls = speak(None)
        for name in (
            "X_Forwarded_Client_Cert",
            "X_SSL_Client_Cert",
            "Client_Cert",
            "X_Client_Certificate",
            "SSL_Client_Cert",
        ):
            assert stack.call("modern", "time", **fields, **{name: pem}).status == 401


def test_the_token_command_binds(tmp_path: Path) -> None:
    with mutual(tmp_path) as (stack, alice, _, speak):
        words = ("token", "--user", "alice", "--server", "time")
        made = stack.command(*words, "--certificate", str(alice.cert_path))
        assert made.returncode == 0
        fields = {"Authorization": f"Bearer {made.stdout.strip()}"}
        stack.tls = speak(alice)
        assert stack.call("modern", "time", **fields).status == 200
        stack.tls = speak(None)
        assert stack.call("modern", "time", **fields).status == 401
        assert stack.command(*words, "--jkt", "short").returncode == 2
        assert stack.command(*words, "--certificate", str(tmp_path / "absent")).returncode == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_with_its_certificate_is_let_in_and_without_it_is_not(tmp_path: Path) -> None:
    with mutual(tmp_path) as (stack, alice, bob, _):
        token = minted(stack, certificate=alice.thumbprint)
        body, fields = stack.modern_message("tools/list")
        fields = {**fields, "Authorization": f"Bearer {token}", "Content_Type": "application/json",
                  "Accept": "application/json, text/event-stream"}  # fmt: skip
        words = ["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}",
                 "--cacert", str(tmp_path / "test-authority.pem"), "-d", json.dumps(body), stack.url + URL]  # fmt: skip
        for name, value in fields.items():
            words += ["-H", f"{name.replace('_', '-')}: {value}"]

        def status(leaf: Leaf | None) -> str:
            shown = [] if leaf is None else ["--cert", str(leaf.cert_path), "--key", str(leaf.key_path)]
            return subprocess.run(
                [*words, *shown], capture_output=True, text=True, timeout=20, check=True
            ).stdout

        assert [status(leaf) for leaf in (alice, bob, None, alice)] == ["200 0", "401 0", "401 0", "200 0"]
