"""`doorward serve` as a whole: its start, its documents, its settings while it runs, its ends, and what it leaves behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack.kit import Stack, processes, running
from tests.stack.wire import Answer, Wire, until
from tests.stand_ins.http_server import HttpUpstream

SECRET = "s3cr3t-of-the-upstream-7e1b"
FORGED = {
    "X_Forwarded_Host": "evil.example",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_For": "10.0.0.1",
    "Forwarded": "host=evil.example;proto=https",
    "X_Original_Host": "evil.example",
}


def get(stack: Stack, path: str, verb: str = "GET", **fields: Any) -> Answer:
    """A document, without a token."""
    return stack.ask("", verb=verb, path=path, **{"Authorization": None, "Accept": "*/*", **fields})


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running({"s": HttpUpstream(), "other": HttpUpstream()}) as started:
        yield started


# -- commands beside it ----------------------------------------------------------------------------------------------


def test_the_commands_work_beside_a_serving_doorward(stack: Stack) -> None:
    printed = stack.command("token", "--user", "carol", "--server", "s")
    assert printed.returncode == 0 and "Created carol" in printed.stderr, printed
    token = printed.stdout.strip()
    answer = stack.modern(
        "s", "tools/call", {"name": "echo", "arguments": {"a": 1}}, Authorization=f"Bearer {token}"
    )
    assert answer.text == '{"a": 1}', answer
    assert stack.modern("other", "tools/list", Authorization=f"Bearer {token}").status == 401

    rows = json.loads(
        stack.command("audit", "query", "--principal", "carol", "--tool", "echo", "--json").stdout
    )
    assert len(rows) == 1
    expected = {
        "kind": "call", "era": "modern", "principal": "carol", "server": "s", "method": "tools/call", "item": "echo",
        "verdict": "allow", "outcome": "ok", "http_status": 200, "upstream_requests": 1,
    }  # fmt: skip
    assert {key: rows[0][key] for key in expected} == expected
    assert "1" not in json.dumps(rows[0]["notes"])

    verified = stack.command("audit", "verify", "--json")
    report = json.loads(verified.stdout)
    assert verified.returncode == 0 and report["ok"] and report["entries"] > 0, report


def test_health_needs_no_token_and_tells_no_detail(stack: Stack) -> None:
    assert get(stack, "/healthz").json == {"status": "ok"}
    assert get(stack, "/readyz").json == {"status": "ready"}
    assert get(stack, "/healthz", "HEAD").body == b""
    assert get(stack, "/healthz", "POST", Content_Length="0").status == 405


def test_a_head_request_is_told_its_length_only(stack: Stack) -> None:
    answer = get(stack, "/readyz", "HEAD")
    assert answer.status == 200 and answer.fields["content-length"] == str(len(get(stack, "/readyz").body))


@pytest.mark.parametrize("path", ["/s/mcp", "/other/mcp", "/mcp", ""])
def test_resource_metadata_is_built_from_settings_whatever_a_proxy_or_liar_says(
    stack: Stack, path: str
) -> None:
    answer = get(stack, "/.well-known/oauth-protected-resource" + path, **FORGED)
    assert answer.status == 200
    assert answer.json["resource"] == stack.url + (path or "/mcp")
    assert answer.json["authorization_servers"] == [stack.url]
    assert b"evil" not in answer.body
    assert get(stack, "/.well-known/oauth-protected-resource" + path, Host="evil.example").status == 403


def test_the_issuer_is_described_and_its_keys_are_public_only(stack: Stack) -> None:
    for name in ("oauth-authorization-server", "openid-configuration"):
        document = get(stack, f"/.well-known/{name}", **FORGED).json
        assert document["issuer"] == stack.url and document["jwks_uri"] == f"{stack.url}/oauth/jwks"
    keys = get(stack, "/oauth/jwks").json["keys"]
    assert keys and not any("d" in key for key in keys)


@pytest.mark.parametrize("verb", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("path", ["/s/mcp", "/mcp"])
def test_every_challenge_leads_to_the_metadata_of_its_endpoint(stack: Stack, path: str, verb: str) -> None:
    answer = stack.ask("", verb=verb, path=path, Authorization=None, **FORGED)
    assert answer.status == 401
    challenge = answer.fields["www-authenticate"]
    assert challenge.startswith("Bearer ") and "error=" not in challenge and 'scope="mcp"' in challenge
    url = challenge.partition('resource_metadata="')[2].partition('"')[0]
    assert url.startswith(stack.url + "/.well-known/")
    assert get(stack, url.removeprefix(stack.url)).json["resource"] == stack.url + path
    bad = stack.ask("", verb=verb, path=path, Authorization="Bearer nonsense")
    assert bad.status == 401 and 'error="invalid_token"' in bad.fields["www-authenticate"]


def test_a_token_in_the_query_is_no_token(stack: Stack) -> None:
    answer = stack.ask("s", {}, path=f"/s/mcp?access_token={stack.token('s')}", Authorization=None)
    assert answer.status in (401, 404), answer


def test_the_admin_plane_wants_a_token_and_counts_what_was_done(stack: Stack) -> None:
    assert stack.admin("/api/v1/status").json["workers"]
    with Wire(stack.admin_port) as wire:
        wire.send(
            f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{stack.admin_port}\r\nConnection: close\r\n\r\n".encode()
        )
        assert wire.read().status == 401
    token = (stack.data_dir / "admin-token").read_text().strip()
    with Wire(stack.admin_port) as wire:
        wire.send(
            f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{stack.admin_port}\r\nAuthorization: Bearer {token}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        answer = wire.read()
    assert answer.status == 200 and b"doorward_" in answer.body


def test_nobody_else_may_read_the_data_folder(stack: Stack) -> None:
    stack.wait_admin()
    assert stat.S_IMODE(stack.data_dir.stat().st_mode) == 0o700
    found = {}
    for at, folders, files in os.walk(stack.data_dir):
        for name in (*folders, *files):
            path = Path(at, name)
            found[str(path.relative_to(stack.data_dir))] = stat.S_IMODE(path.lstat().st_mode) & 0o077
    assert "admin.sock" in found and any(name.startswith("keys/") for name in found)
    private = {name: mode for name, mode in found.items() if not name.startswith("ledger")}
    assert not {name: oct(mode) for name, mode in private.items() if mode}


# -- one at a time, and only what is allowed -----------------------------------------------------------------------------


def test_a_second_doorward_on_the_same_data_folder_is_refused(stack: Stack) -> None:
    second = Stack(stack.folder, {"s": stack.servers["s"]})
    second.config = stack.folder / "second.toml"
    second.log_path = stack.folder / "second.log"
    second.write_settings()
    process = second.launch()
    assert process.wait(15) in (2, 3)
    assert "data-dir-busy" in second.log(), second.log()
    assert stack.modern("s", "tools/list").status == 200


@pytest.mark.parametrize(
    ("line", "code", "place"),
    [
        ('[controls.check-token]\nmode = "off"', "settings-floor", "controls.check-token.mode"),
        ('[controls.check-origin]\nmode = "report"', "settings-floor", "controls.check-origin.mode"),
        ('[identity]\nmode = "external"', "settings-invalid", "identity.mode"),
        ('[gateway.tls]\ncert = "x"', "settings-invalid", "gateway.tls"),
        ('[servers.s2]\nurl = "http://127.0.0.1:9/mcp"\ntls = { pin = ["sha256/x"] }', "settings-invalid", "tls"),
        ("[limits]\ncals = 5", "settings-unknown-key", "did you mean limits.calls"),
        ('[servers.mcp]\nurl = "http://127.0.0.1:9/mcp"', "settings-invalid", "servers.mcp"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_honoured_refuse_to_start(
    tmp_path: Path, line: str, code: str, place: str
) -> None:
    stack = Stack(tmp_path, {})
    stack.tables = {}
    text = stack.settings_text()
    table = line.partition("\n")[0]
    text = text.replace(f"{table}\n", "", 1) if table == "[limits]" else text
    text = text.replace('"calls" = 100000\n', "") if table == "[limits]" else text
    stack.write_settings(f"{text}\n{line}\n")
    process = stack.launch()
    assert process.wait(15) == 2, stack.log()
    assert code in stack.log() and place in stack.log() and "line " in stack.log(), stack.log()
    assert not stack.data_dir.exists() or not any(stack.data_dir.iterdir()), "nothing was made"


def test_a_start_that_fails_late_ends_at_once(tmp_path: Path) -> None:
    stack = Stack(tmp_path, {}, tables={"policy": {"files": ["missing/*.cedar"]}}, workers=2)
    stack.write_settings()
    assert stack.launch().wait(8) == 2, stack.log()
    assert "policy-unreadable" in stack.log()


def test_profile_lab_needs_its_switch(tmp_path: Path) -> None:
    stack = Stack(tmp_path, {}, off=("check-token",))
    del stack._environment["DOORWARD_LAB"]
    stack.write_settings()
    assert stack.launch().wait(15) == 2
    assert "settings-floor" in stack.log()


# -- settings while it runs ----------------------------------------------------------------------------------------------


def test_a_good_change_is_in_force_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    first, second = HttpUpstream(), HttpUpstream()
    with running({"s": first}, workers=2) as stack:
        session = stack.session("s")
        stack.servers["added"] = second
        stack.write_settings()
        # Every connection may meet either worker: both have the change when ten in a row do.
        until(
            lambda: all(get(stack, _metadata("added")).status == 200 for _ in range(10)), "the added server"
        )
        assert stack.call("modern", "added").status == 200
        assert stack.legacy("s", session, "tools/list").status == 200, "the session of another server goes on"

        stack.write_settings(stack.settings_text(limits={"cals": 1}))
        until(lambda: "settings refused" in stack.log(), "the refusal in the log")
        refusal = next(line for line in stack.log().splitlines() if "settings refused" in line)
        assert "limits.cals" in refusal and "line " in refusal and "settings-unknown-key" in refusal, refusal
        assert stack.call("modern", "added").status == 200

        stack.write_settings(stack.settings_text(gateway={"workers": 3}))
        until(lambda: "settings-restart" in stack.log(), "the refusal of what needs a restart")
        assert len(stack.worker_pids()) == 2

        del stack.servers["added"]
        stack.write_settings()
        until(
            lambda: all(get(stack, _metadata("added")).status == 404 for _ in range(10)), "the server to go"
        )
        assert stack.call("modern", "s").status == 200
        second.close()


def _metadata(server: str) -> str:
    return f"/.well-known/oauth-protected-resource/{server}/mcp"


def test_sighup_reads_the_settings_again(tmp_path: Path) -> None:
    with running({"s": HttpUpstream()}) as stack:
        assert stack.process is not None
        before = stack.log().count("settings in force")
        stack.process.send_signal(signal.SIGHUP)
        until(lambda: stack.log().count("settings in force") > before, "a new revision")
        assert stack.call("modern", "s").status == 200
        stack.config.write_text("[gateway\n")
        stack.process.send_signal(signal.SIGHUP)
        until(lambda: "is not TOML" in stack.log(), "the refusal")
        assert stack.call("modern", "s").status == 200


# -- ends ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("way", ["json", "stream"])
def test_a_call_under_way_is_answered_before_it_ends(era: str, way: str) -> None:
    upstream = HttpUpstream()
    answers: list[Answer] = []

    def slowly(ask: Any) -> None:
        ask.start_events()
        ask.event(
            {
                "jsonrpc": "2.0",
                "method": "notifications/message",
                "params": {"level": "info", "data": "begun"},
            }
        )
        upstream.held += 1
        upstream.release.wait(15)
        result: dict[str, Any] = {"content": [{"type": "text", "text": '{"x": 1}'}]}
        if era == "modern":
            result["resultType"] = "complete"
        ask.event({"jsonrpc": "2.0", "id": ask.json["id"], "result": result})
        ask.end()

    if way == "stream":
        upstream.on["tools/call"] = slowly
    with running({"s": upstream}) as stack:
        assert stack.process is not None
        stack.call(era, "s", "none") if way == "json" else None
        session = stack.session("s") if era == "legacy" else ""
        upstream.release.clear()
        caller = threading.Thread(
            target=lambda: answers.append(stack.call(era, "s", arguments={"x": 1}, session=session))
        )
        caller.start()
        until(lambda: upstream.held, "the call at the server")
        stack.process.send_signal(signal.SIGTERM)
        until(lambda: not stack.is_ready(), "no more connections")
        upstream.release.set()
        caller.join(15)
        assert answers and answers[0].text == '{"x": 1}', (answers, stack.log()[-2000:])
        assert stack.stop() == 0
        rows = stack.rows(tool="echo")
        assert [row["outcome"] for row in rows] == ["ok"]
        assert stack.command("audit", "verify", "--json").returncode == 0


def test_ctrl_c_ends_it_in_order() -> None:
    with running({"s": HttpUpstream()}, workers=2) as stack:
        with stack.events("s", verb="GET", Mcp_Session_Id=stack.session("s")).wire:
            assert stack.stop(signal.SIGINT) == 0


def test_killed_workers_end_and_the_ledger_still_holds() -> None:
    upstream = HttpUpstream()
    with running({"s": upstream}, workers=2) as stack:
        for _ in range(20):
            stack.call("modern", "s")
        upstream.release.clear()
        with Wire(stack.port) as wire:
            body, fields = stack.modern_message("tools/call", {"name": "echo", "arguments": {}})
            wire.send(stack.request("s", body, **fields))
            until(lambda: upstream.held, "the call at the server")
            for pid in stack.worker_pids():
                os.kill(pid, signal.SIGKILL)
            stack.stop(signal.SIGKILL)
        report = json.loads(stack.command("audit", "verify", "--json").stdout)
        assert report["ok"], report
        outcomes = [row["outcome"] for row in stack.rows(tool="echo")]
        assert sorted(set(outcomes)) == ["ok", "unknown"] and outcomes.count("unknown") == 1, outcomes
        upstream.release.set()
        stack.start()
        assert stack.call("modern", "s").status == 200
        assert json.loads(stack.command("audit", "verify", "--json").stdout)["ok"]


def test_a_ledger_that_cannot_be_written_ends_the_serving() -> None:
    upstream = HttpUpstream()
    with running({"s": upstream}) as stack:
        assert stack.call("modern", "s").status == 200
        session = stack.session("s")
        (worker,) = stack.worker_pids()
        # A full disk as the kernel tells of it: no file of this process may grow.
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        before = upstream.hits
        with Wire(stack.port) as wire:
            wire.send(stack.request("s", stack.legacy_message("tools/list"), Mcp_Session_Id=session))
            try:
                answer = wire.read()
            except ConnectionError:
                answer = None
        assert answer is None or answer.status == 503, answer
        until(lambda: not stack.is_ready(), "readyz to say no")
        settled = upstream.hits
        for era in ("modern", "legacy"):
            try:
                answer = stack.call(era, "s", session=session)
            except (ConnectionError, OSError):
                continue
            assert answer.status == 503, answer
        assert upstream.hits == settled and settled <= before + 1


# -- what it leaves behind -----------------------------------------------------------------------------------------------


def test_no_token_secret_or_argument_is_written_anywhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "secret").chmod(0o600)
    upstream = HttpUpstream()
    server = {
        "url": upstream.url,
        "credentials": {"type": "header", "name": "X-Api-Key", "value": {"file": str(tmp_path / "secret")}},
    }
    try:
        with running({"s": server}, environment={"DOORWARD_LOG": "debug"}) as stack:
            argument = "argument-value-91c4"
            session = stack.session("s")
            stack.call("legacy", "s", arguments={"x": argument}, session=session)
            stack.call("modern", "s", arguments={"x": argument})
            stack.ask("s", b'{"jsonrpc": "2.0", "x": "' + argument.encode() + b'"', Mcp_Session_Id=session)
            upstream.on["tools/call"] = lambda ask: ask.reply(500, SECRET.encode())
            failed = stack.call("modern", "s", arguments={"x": argument})
            assert SECRET not in repr(failed)
            assert all(ask.fields.get("x-api-key") == SECRET for ask in upstream.calls())
            secrets = [SECRET, stack.token("s"), stack.token("s").rpartition(".")[2], session, argument]
            commands = "\n".join(command for _, command in processes().values())
            stack.stop()
            written = {str(path): path.read_bytes() for path in stack.folder.rglob("*") if path.is_file()}
        assert str(tmp_path / "secret") not in written
        for secret in secrets:
            places = [name for name, content in written.items() if secret.encode() in content]
            assert not places and secret not in commands, (secret, places)
        assert any(b'"echo"' in content for name, content in written.items() if "ledger" in name)
    finally:
        upstream.close()
