"""What many attempts show together: only clear evidence counts."""

from __future__ import annotations

import pytest

from doorward.range.lab import Attempt, Outcome, Phase, conclude

E, B, I = "exploited", "blocked", "inconclusive"  # noqa: E741


def attempts(*outcomes: Outcome) -> list[Attempt]:
    return [Attempt(f"variant {number}", outcome, "") for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("phase", "outcomes", "wanted"),
    [
        ("vulnerable", (E, E), E),
        ("rolled_back", (E, E), E),
        ("fixed", (B, B), B),
        ("vulnerable", (B, B), B),
        ("fixed", (E, E), E),
        ("fixed", (B, E), E),  # one hole is a hole
        (
            "vulnerable",
            (B, E),
            I,
        ),  # something else stops a variant: switching this control proves nothing for it
        ("rolled_back", (E, B), I),
        ("vulnerable", (E, I), I),
        ("fixed", (B, I), I),
        ("fixed", (E, I), I),
        ("vulnerable", (), I),
        ("fixed", (), I),
    ],
)
def test_all_variants_are_judged_together(
    phase: Phase, outcomes: tuple[Outcome, ...], wanted: Outcome
) -> None:
    assert conclude(phase, attempts(*outcomes)) == wanted


def test_what_something_else_always_stops_proves_nothing_and_spoils_nothing() -> None:
    always = Attempt("twice", "blocked", "", always_blocked=True)
    assert conclude("vulnerable", [*attempts(E), always]) == E
    assert conclude("vulnerable", [always]) == I
    assert conclude("fixed", [*attempts(B), always]) == B


def test_what_should_always_be_stopped_and_is_not_is_a_hole() -> None:
    through = Attempt("twice", "exploited", "", always_blocked=True)
    assert conclude("fixed", [*attempts(B), through]) == E
    assert conclude("vulnerable", [*attempts(E), through]) == E
