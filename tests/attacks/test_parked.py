"""Calls that wait for an answer to a question hold nothing that others need, however many a few callers leave behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port
from tests.stack.kit import Stack, at_once, running
from tests.stack.wire import until

SERVER = Path(__file__).resolve().parents[2] / "bench" / "soak_cancel_upstream.py"
CAN = {"elicitation": {}}
PLACES = 256  # of calls under way at one server, see HttpPool
EACH = 60  # a principal may have 64 parked


@contextmanager
def before(era: str) -> Iterator[Stack]:
    port = free_port()
    process = subprocess.Popen([sys.executable, str(SERVER), str(port), era], stdin=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/mcp"
        with running({"s": {"url": url, "allow_requests": ["elicitation"]}}) as stack:
            until(lambda: stack.modern("s", "tools/list").status == 200, "the server behind it")
            yield stack
    finally:
        process.kill()
        process.wait()


def test_questions_that_nobody_answers_do_not_keep_others_from_the_server() -> None:
    with before("legacy") as stack:
        users = PLACES // EACH + 1

        def leave(number: int) -> None:
            for call in range(EACH):
                given = {"name": "ask", "arguments": {"nonce": f"{number}-{call}", "ms": 0}}
                answer = stack.modern("s", "tools/call", given, capabilities=CAN, user=f"mallory-{number}")
                assert answer.json["result"]["resultType"] == "input_required", answer

        at_once(users, leave, 60.0)
        honest = {"name": "echo", "arguments": {"nonce": "alice's", "ms": 0}}
        for era in ("modern", "legacy"):
            assert stack.call(era, "s", honest["name"], honest["arguments"]).text == "alice's"  # type: ignore[arg-type]
