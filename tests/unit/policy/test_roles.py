from __future__ import annotations

from typing import Any

import cedarpy
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.policy.roles import EVERYTHING, Role, cedar_pattern, cedar_string, role_policy

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)


def holds(condition: str) -> bool:
    policy = f"permit(principal, action, resource) when {{ {condition} }};"
    request: dict[str, Any] = {
        "principal": 'P::"a"',
        "action": 'Action::"a"',
        "resource": 'R::"a"',
        "context": {},
    }
    answer = cedarpy.is_authorized(request, policy, [])
    assert not answer.diagnostics.errors
    return answer.allowed


@settings(max_examples=150, deadline=None)
@given(TEXT)
def test_any_text_survives_as_a_cedar_string_and_matches_only_itself(text: str) -> None:
    assert holds(f"{cedar_string(text)} like {cedar_pattern(text)}")
    if "*" not in text:
        assert not holds(f"{cedar_string(text + 'x')} like {cedar_pattern(text)}")


def matches(text: str, glob: str) -> bool:
    head, *parts = glob.split("*")
    if not parts:
        return text == glob
    if not text.startswith(head) or len(text) < len(head) + len(parts[-1]) or not text.endswith(parts[-1]):
        return False
    rest = text[len(head) : len(text) - len(parts[-1])]
    for part in parts[:-1]:
        place = rest.find(part)
        if place < 0:
            return False
        rest = rest[place + len(part) :]
    return True


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab*"\\?', max_size=8), st.text(alphabet='ab*"\\?', max_size=6))
def test_a_star_is_the_only_wildcard(text: str, glob: str) -> None:
    assert holds(f"{cedar_string(text)} like {cedar_pattern(glob)}") == matches(text, glob)


@settings(max_examples=100, deadline=None)
@given(TEXT, st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3))
def test_every_role_gives_at_most_one_policy_that_parses(
    name: str, servers: list[str], tools: list[str]
) -> None:
    text = role_policy(name, Role(tuple(servers), tuple(tools)))
    found = msgspec.json.decode(cedarpy.policies_to_json_str(text))
    assert len(found["staticPolicies"]) == bool(servers)


def test_an_empty_role_grants_nothing_and_says_nothing() -> None:
    assert role_policy("none", Role()) == ""
    assert "permit" in role_policy("user", EVERYTHING)
