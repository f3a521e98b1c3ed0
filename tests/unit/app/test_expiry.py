from __future__ import annotations

import pytest

from doorward.app.expiry import Expiry

DAY = 86_400.0


@pytest.mark.parametrize(
    ("life", "left", "step"),
    [
        (365, 100, None), (365, 31, None), (365, 30, 0), (365, 8, 0), (365, 7, 1), (365, 1.01, 1), (365, 1, 2),
        (365, 0.001, 2), (365, 0, 3), (365, -5, 3),
        (30, 11, None), (30, 10, 0), (30, 5, 1), (30, 1, 2), (30, -1, 3),  # shorter lives, shorter distances
        (1, 0.5, None), (1, 0.3, 0), (1, 0.1, 1), (1, 0.04, 2), (1, 0, 3),
    ],
)  # fmt: skip
def test_the_nearer_the_end_the_higher_the_step(life: float, left: float, step: int | None) -> None:
    assert Expiry.step_of(0.0, life * DAY, (life - left) * DAY) == step


def test_each_step_is_said_once_for_each_certificate() -> None:
    expiry = Expiry()
    rows = {"gateway": (0.0, 365 * DAY)}
    said = [[where for where, _ in expiry.steps(rows, day / 4 * DAY)] for day in range(4 * 370)]
    assert sum(len(one) for one in said) == 4
    rows = {"gateway": (0.0, 800 * DAY)}  # a new one
    assert list(expiry.steps(rows, 370 * DAY)) == []
    assert [where for where, _ in expiry.steps(rows, 799.5 * DAY)] == ["gateway"]
    assert list(expiry.steps(rows, 799.5 * DAY)) == []
    assert list(expiry.steps({}, 799.5 * DAY)) == []
    assert [where for where, _ in expiry.steps(rows, 799.5 * DAY)] == ["gateway"]


def test_a_new_certificate_that_is_as_near_its_end_is_said_again() -> None:
    expiry = Expiry()
    assert list(expiry.steps({"a": (0.0, 30 * DAY)}, 29.5 * DAY))
    assert list(expiry.steps({"a": (0.0, 30.2 * DAY)}, 29.5 * DAY))
