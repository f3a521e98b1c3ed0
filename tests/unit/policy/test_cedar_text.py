from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from doorward.policy.cedar_text import statements_of

_SKIPPED = re.compile(r"(?:\s|//[^\n]*)*")


def test_policies_are_cut_at_their_semicolons_and_know_their_line() -> None:
    text = '// first; comment\n\npermit(principal, action, resource);\n@id("a;b")\nforbid(principal,\naction, resource) // ; here\nwhen { "x\\";" == "y" };\npermit'
    found = statements_of(text)
    assert [line for line, _ in found] == [3, 4, 8]
    assert found[1][1].startswith('@id("a;b")')
    assert found[2][1] == "permit"


def test_comments_and_space_alone_are_no_policy() -> None:
    assert statements_of("// nothing\n  \n") == []


@example("//;\n;\\")
@given(st.text(alphabet='ab;"\\/ \n', max_size=60))
def test_nothing_but_space_and_comments_is_lost(text: str) -> None:
    rest = text
    for _, statement in statements_of(text):
        rest = _SKIPPED.sub("", rest, count=1)
        assert rest.startswith(statement)
        rest = rest.removeprefix(statement)
    assert not _SKIPPED.sub("", rest, count=1)
