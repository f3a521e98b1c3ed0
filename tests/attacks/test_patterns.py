"""Attacks on pattern matching: what operators write and what callers send never meet in more than linear time."""

from __future__ import annotations

import ast
import re
import re._parser as sre  # the standard library's own reader of patterns
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.kit import Target, target
from tests.stack.wire import Answer
from tests.stand_ins.http_server import HttpUpstream, tool

ROOT = Path(__file__).parents[2]
MANY_STARS = "*a" * 30 + "*b"
LONG_NAME = "a" * 128
LONG_URI = "file:///" + "a" * 8_000
BOUND_SECONDS = 5.0  # of wall time on a loaded machine; an exponential answer would outlive it by far

POLICY = f"""
permit (principal, action, resource) when {{ resource has name && resource.name like "{MANY_STARS}" }};
permit (principal, action in Action::"connect", resource);
permit (principal, action, resource) when {{ resource has name && resource.name == "echo" }};
permit (principal, action == Action::"tools/list", resource);
permit (principal, action, resource is Server);
"""


@pytest.fixture(scope="module", params=["roles", "cedar"])
def gate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, speaks: str
) -> Iterator[Target]:
    upstream = HttpUpstream(speaks, tools=[tool("echo"), tool(LONG_NAME)])
    tables: dict[str, dict[str, Any]] = {
        "identity": {"users": [{"name": "alice", "roles": ["patterned"]}]},
        "roles.patterned": {"servers": ["s"], "tools": [MANY_STARS, "echo"]},
    }
    if request.param == "cedar":
        file = tmp_path_factory.mktemp("policy") / "stars.cedar"
        file.write_text(POLICY)
        tables["policy"] = {"files": [str(file)]}
    with target(upstream=upstream, tables=tables) as found:
        yield found


def timed(send: Callable[[], Answer]) -> tuple[Answer, float]:
    """An answer and how long it took."""
    begun = time.monotonic()
    answer = send()
    return answer, time.monotonic() - begun


def test_t_49_a_pattern_full_of_stars_costs_no_time(gate: Target, era: str) -> None:
    gate.passes(era)
    for number in range(5):
        name = "a" * (123 + number)
        before = len(gate.upstream.calls())
        answer, seconds = timed(lambda name=name: gate.call(era, tool=name))  # type: ignore[misc]
        assert answer.code == -32602 and gate.stack.row_of(answer)["control"] == "ask-policy", answer
        assert seconds < BOUND_SECONDS and len(gate.upstream.calls()) == before
    matching = "a" * 60 + "b"
    gate.upstream.tools.append(tool(matching))
    gate.stack.modern("s", "tools/list")
    assert gate.call(era, tool=matching).status == 200, "the pattern is in force"
    gate.passes(era)


def test_t_49_a_policy_file_that_is_no_cedar_is_refused_with_its_place(gate: Target) -> None:
    file = gate.stack.folder / "broken.cedar"
    file.write_text('permit (principal, action, resource) when { resource.name matches "(a+)+$" };')
    text = gate.stack.settings_text(policy={"files": [str(file)]})
    checked = gate.stack.config.with_name("check.toml")
    checked.write_text(text)
    import subprocess

    from tests.stack.kit import DOORWARD

    done = subprocess.run(
        [*DOORWARD, "check", "--config", str(checked)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2 and "broken.cedar" in done.stdout + done.stderr, done


@pytest.mark.parametrize("method", ["resources/read", "completion/complete", "tools/list", "prompts/get"])
def test_t_73_long_uris_names_and_cursors_cost_no_time(gate: Target, era: str, method: str) -> None:
    gate.passes(era)
    params: dict[str, Any] = {
        "resources/read": {"uri": LONG_URI},
        "completion/complete": {
            "ref": {"type": "ref/resource", "uri": "file:///{" + "a" * 4_000 + "}" + "{b*}" * 500},
            "argument": {"name": "a", "value": "a" * 8_000},
        },
        "tools/list": {"cursor": "a" * 8_000},
        "prompts/get": {"name": "a" * 128},
    }[method]
    if era == "modern":
        answer, seconds = timed(lambda: gate.stack.modern("s", method, params))
    else:
        answer, seconds = timed(lambda: gate.stack.legacy("s", gate.session(), method, params))
    assert answer.status in (200, 404) and seconds < BOUND_SECONDS, (answer, seconds)
    gate.passes(era)


def test_t_73_templates_of_a_server_full_of_expressions_are_listed_in_no_time(gate: Target, era: str) -> None:
    templates = [{"name": f"t{n}", "uriTemplate": "file:///" + "{a*,b*}" * 500 + str(n)} for n in range(50)]
    extra = {"ttlMs": 0, "cacheScope": "private"} if era == "modern" else {}
    gate.upstream.on["resources/templates/list"] = lambda ask: {"resourceTemplates": templates, **extra}
    method = "resources/templates/list"
    if era == "modern":
        answer, seconds = timed(lambda: gate.stack.modern("s", method))
    else:
        answer, seconds = timed(lambda: gate.stack.legacy("s", gate.session(), method))
    assert answer.status == 200 and seconds < 2 * BOUND_SECONDS, (answer, seconds)


def patterns_in_source() -> list[tuple[str, str]]:
    """Every pattern that the source compiles: (place, pattern)."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if (
                isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr != "escape"
            ):
                try:
                    text = ast.literal_eval(node.args[0])
                except ValueError:
                    text = None
                if isinstance(text, (str, bytes)):
                    found.append(
                        (
                            f"{path.name}:{node.lineno}",
                            text if isinstance(text, str) else text.decode("latin-1"),
                        )
                    )
    return found


def nests_repetition(parsed: Any, inside: bool = False) -> bool:
    """Whether an unbounded repetition holds another one, which is what makes matching explode."""
    for operation, argument in parsed:
        if operation in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            low, high, body = argument
            unbounded = high == sre.MAXREPEAT
            if (inside and unbounded) or nests_repetition(body, inside or unbounded):
                return True
        elif operation is sre.SUBPATTERN:
            if nests_repetition(argument[-1], inside):
                return True
        elif operation is sre.BRANCH:
            if any(nests_repetition(branch, inside) for branch in argument[1]):
                return True
    return False


def test_t_73_no_pattern_in_the_source_repeats_a_repetition() -> None:
    found = patterns_in_source()
    assert len(found) > 5
    assert nests_repetition(sre.parse("(a+)+$")) and not nests_repetition(sre.parse("a+b*"))
    bad = [(place, text) for place, text in found if nests_repetition(sre.parse(text))]
    assert not bad
    assert re.compile("a").match("a")
