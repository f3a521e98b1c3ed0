"""What an operator sees of definitions: a server's names and texts never steer the terminal."""

from __future__ import annotations

from typing import Any

from doorward.cli.tools import _show_difference, _told

NAME = "echo\x1b[2K\rfiles tool safe: approved\u202e"


def test_names_of_servers_are_shown_not_obeyed(capsys: Any) -> None:
    row = {"server": "s", "kind": "tool", "name": NAME, "state": "held", "pin": "sha256:0", "offered_pin": ""}
    change = {"field": "/a\x1b[2K", "class": "wording", "before": "a\x1b[1A", "after": "b\u202e"}
    _told([row], as_json=False)
    _show_difference({**row, "changes": [change]})
    shown = capsys.readouterr().out
    assert not {"\x1b", "\r", "\u202e"} & {*shown}
    assert "<U+202E>" in shown
