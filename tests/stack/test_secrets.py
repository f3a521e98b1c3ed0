"""Secrets change while Doorward serves, and stay out of sight while they do."""

from __future__ import annotations

import json
from pathlib import Path

from tests.stack.kit import Stack, running
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream
from tests.stand_ins.secret_stores import FakeVault

ECHO = {"name": "echo", "arguments": {"a": 1}}
OLD, NEW = "canary-old-51c0", "canary-new-9d77"


def last_authorization(upstream: HttpUpstream) -> str:
    return upstream.calls()[-1].fields.get("authorization", "")


def test_a_changed_header_is_presented_without_a_restart_and_open_sessions_go_on(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(OLD + "\n")
    secret.chmod(0o600)
    upstream = HttpUpstream()
    tables = {
        "servers.up": {
            "url": upstream.url,
            "credentials": {"type": "header", "prefix": "Bearer ", "value": {"file": str(secret)}},
        },
        "secrets": {"reread_seconds": 0.2},
    }
    with running({"up": upstream}, workers=2, tables=tables) as stack:
        stack.wait_admin()
        session = stack.session("up")
        assert stack.legacy("up", session, "tools/call", ECHO).status == 200
        assert last_authorization(upstream) == f"Bearer {OLD}"
        secret.write_text(NEW)

        def sees() -> bool:
            assert stack.legacy("up", session, "tools/call", ECHO).status == 200
            assert stack.modern("up", "tools/call", ECHO).status == 200
            return last_authorization(upstream) == f"Bearer {NEW}"

        until(sees, "the new secret at the server")
        assert stack.legacy("up", session, "tools/call", ECHO).status == 200
        assert last_authorization(upstream) == f"Bearer {NEW}"

        # Unreadable: what is known stays in force, and it shows.
        secret.chmod(0o644)
        until(lambda: rows(stack)[0]["state"] == "failing", "the open file's row")
        assert rows(stack)[0]["why"] == "secret-open"
        assert stack.command("secrets", "check").returncode == 1
        assert stack.modern("up", "tools/call", ECHO).status == 200
        assert last_authorization(upstream) == f"Bearer {NEW}"
        secret.chmod(0o600)
        done = stack.command("secrets", "check", "--json")
        assert done.returncode == 0, done
        told = {(row["method"], row["item"]): row["reason"] for row in stack.rows(kind="admin")}
        key = "servers.up.credentials.value"
        assert {
            ("secret-read", key),
            ("secret-changed", key),
            ("secret-failed", key),
            ("secret-used", key),
        } <= set(told)
        assert "not by Doorward itself" in told["secret-used", key]
        seen = json.dumps([rows(stack), stack.rows()]) + stack.log() + done.stdout
        assert OLD not in seen
        assert NEW not in seen


def test_a_secret_of_a_vault_is_presented_and_a_rotated_one_taken_up(tmp_path: Path) -> None:
    vault = FakeVault()
    vault.data["secret/tickets"] = {"token": OLD}
    proof = tmp_path / "vault-token"
    proof.write_text("hvs.root")
    proof.chmod(0o600)
    upstream = HttpUpstream()
    tables = {
        "servers.up": {
            "url": upstream.url,
            "credentials": {
                "type": "header",
                "prefix": "Bearer ",
                "value": {"vault": "secret/tickets#token"},
            },
        },
        "secrets": {
            "reread_seconds": 0.3,
            "vault": {"url": f"http://127.0.0.1:{vault.port}", "token": {"file": str(proof)}},
        },
        "network": {"allow": [f"127.0.0.1:{vault.port}"]},
    }
    try:
        with running({"up": upstream}, tables=tables) as stack:
            stack.wait_admin()
            assert stack.modern("up", "tools/call", ECHO).status == 200
            assert last_authorization(upstream) == f"Bearer {OLD}"
            vault.data["secret/tickets"] = {"token": NEW}
            until(
                lambda: (
                    stack.modern("up", "tools/call", ECHO).status == 200
                    and last_authorization(upstream) == f"Bearer {NEW}"
                ),
                "the rotated secret",
            )
            vault.tokens.clear()  # nothing can be read any more: what is known stays in force and shows as failing
            until(lambda: "secret-denied" in {row["why"] for row in rows(stack)}, "the denial")
            assert stack.modern("up", "tools/call", ECHO).status == 200
            stack.stop()
            process = stack.launch()
            assert process.wait(30) != 0, "without the secret there is no start"
            assert "secret-denied" in stack.log()
            assert NEW not in stack.log()
    finally:
        vault.close()


def rows(stack: Stack) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(stack.command("secrets", "list", "--json").stdout)
    return found


def test_references_are_checked_without_a_running_doorward(tmp_path: Path) -> None:
    server = {
        "url": "http://127.0.0.1:9/mcp",
        "credentials": {"type": "header", "value": {"env": "SOME_SECRET_7"}},
    }
    stack = Stack(tmp_path, {"up": server}, environment={"SOME_SECRET_7": OLD})
    stack.write_settings()
    done = stack.command("secrets", "check", "--json")
    assert done.returncode == 0, done
    assert [(row["key"], row["state"]) for row in json.loads(done.stdout)] == [
        ("servers.up.credentials.value", "ok")
    ]
    assert OLD not in done.stdout
    without = Stack(tmp_path, {"up": server})
    assert without.command("secrets", "check").returncode == 1
    assert without.command("secrets", "list").returncode == 0
