"""`doorward doctor oauth` before Doorward's own accounts: what clients see, and why a token does not fit."""

from __future__ import annotations

import json
from typing import Any

from tests.stack.kit import Stack, running
from tests.stand_ins.http_server import HttpUpstream


def examine(stack: Stack, target: str, token: str) -> tuple[int, dict[str, dict[str, Any]]]:
    place = stack.folder / "token"
    place.write_text(f"Bearer {token}\n")
    done = stack.command("doctor", "oauth", target, "--json", "--token-file", str(place))
    assert done.stdout, done.stderr
    assert token not in done.stdout + done.stderr
    return done.returncode, {line["name"]: line for line in json.loads(done.stdout)}


def test_a_token_of_ours_is_examined_with_our_own_keys() -> None:
    with running({"s": HttpUpstream(), "t": HttpUpstream()}) as stack:
        code, lines = examine(stack, "s", stack.token("s"))
        assert code == 0, lines
        assert lines["published"]["what"] == f"clients are sent to {stack.url}"
        assert lines["token"]["what"].startswith("fits: alice through doorward-cli, roles user")
        code, lines = examine(stack, "t", stack.token("s"))
        assert code == 1 and "another endpoint of the same host" in lines["token"]["what"]
        code, lines = examine(stack, "mcp", "not-a-token")
        assert code == 1 and "opaque token" in lines["token"]["what"]
        forged = stack.token("s")[:-8] + "AAAAAAAA"
        code, lines = examine(stack, "s", forged)
        assert code == 1 and (
            "signature does not hold" in lines["token"]["what"] or "copied" in lines["token"]["what"]
        )
        assert "published" in stack.command("doctor", "oauth", "s").stdout
        stack.write_settings(stack.settings_text(identity={"mode": "off"}))
        code, lines = examine(stack, "s", "opaque-token")
        assert code == 1 and "no issuer" in lines["token"]["what"]
