"""Keys change while Doorward serves: nobody is refused who was good, and what is over is over."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from tests.stack.kit import Stack, running
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream

ECHO = {"name": "echo", "arguments": {"a": 1}}


def kids(stack: Stack) -> list[str]:
    found = stack.ask("", verb="GET", path="/oauth/jwks", Authorization=None, Accept="*/*")
    return [key["kid"] for key in found.json["keys"]]


def status(stack: Stack, token: str) -> int:
    return stack.modern("up", "tools/call", ECHO, Authorization=f"Bearer {token}").status


def test_a_token_key_rotates_under_load_without_one_refusal_and_ends_after_its_overlap() -> None:
    with running({"up": HttpUpstream()}, workers=2) as stack:
        stack.wait_admin()
        statuses: list[int] = []
        stop = threading.Event()

        def call() -> None:
            while not stop.is_set():
                statuses.append(status(stack, stack.token("up", fresh=True)))

        old_token = stack.token("up", user="carol")
        before = kids(stack)
        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            done = stack.command("keys", "rotate", "token", "--json")
            assert done.returncode == 0, done.stderr
        stop.set()
        for thread in threads:
            thread.join()
        assert len(statuses) > 10
        assert set(statuses) == {200}
        assert len(kids(stack)) == 4
        assert kids(stack)[-1] == before[0]
        assert status(stack, old_token) == 200
        rows = json.loads(stack.command("keys", "list", "--json").stdout)
        signing = [row["state"] for row in rows if row["use"] == "signs access tokens"]
        assert signing == ["current", "retired", "retired", "retired"]
        private = json.loads((stack.data_dir / "keys" / "token-signing.json").read_text())["current"]["d"]
        assert private not in json.dumps(rows)

        # With no overlap the key that signed until now is refused, everywhere.
        late = stack.token("up", user="dora")
        assert status(stack, late) == 200
        assert stack.command("keys", "rotate", "token", "--overlap-seconds", "0").returncode == 0
        until(lambda: status(stack, late) == 401, "the old key's end")
        assert status(stack, stack.token("up", fresh=True)) == 200
        assert len(kids(stack)) == 4
        methods = [row["method"] for row in stack.rows(kind="admin")]
        assert methods.count("key-rotated") == 4
        assert methods.count("key-retired") == 1


def test_the_master_key_rotates_while_doorward_serves_and_without() -> None:
    with running({"up": HttpUpstream()}) as stack:
        stack.wait_admin()
        master = stack.data_dir / "keys" / "master.json"
        first = master.read_bytes()
        done = stack.command("keys", "rotate", "master", "--json")
        assert json.loads(done.stdout)["broken"] == 0, done
        second = master.read_bytes()
        assert second != first
        assert len(json.loads(second)["keys"]) == 1, "the old key is destroyed"
        assert stack.command("keys", "rotate", "nonsense").returncode == 2
        assert stack.command("keys", "rotate", "master", "--overlap-seconds", "5").returncode == 2


def test_keys_rotate_without_a_running_doorward(tmp_path: Path) -> None:
    upstream = HttpUpstream()
    stack = Stack(tmp_path, {"up": upstream})
    stack.write_settings()
    old = stack.token("up")
    for key in ("token", "master"):
        done = stack.command("keys", "rotate", key, "--json")
        assert done.returncode == 0, done.stderr
    rows = json.loads(stack.command("keys", "list", "--json").stdout)
    assert {row["file"] for row in rows} >= {"token-signing.json", "master.json"}
    stack.start()
    try:
        assert status(stack, old) == 200
    finally:
        stack.stop()
        upstream.close()
