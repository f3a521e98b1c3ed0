from __future__ import annotations

import random

import pytest

from doorward.app import proofs
from doorward.app.proofs import Marks


class Time:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_proof_counts_once_while_it_could_be_used() -> None:
    time = Time()
    marks = Marks(time)
    assert marks.use("k", "a", 1_060.0) == "first"
    assert marks.use("k", "a", 1_060.0) == "used"
    time.now = 1_060.0
    assert marks.use("k", "a", 1_060.0) == "used"
    time.now = 1_071.0
    assert marks.use("k", "b", 1_130.0) == "first"
    assert len(marks) == 1


def test_one_key_cannot_fill_it_for_others_and_full_is_not_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "MARKS_PER_KEY", 3)
    monkeypatch.setattr(proofs, "MARKS_COUNT", 5)
    time = Time()
    marks = Marks(time)
    assert [marks.use("k", f"{n}", 1_060.0) for n in range(4)] == ["first"] * 3 + ["full"]
    assert [marks.use("m", f"m{n}", 1_060.0) for n in range(3)] == ["first", "first", "full"]
    assert marks.use("k", "1", 1_060.0) == "used"
    time.now = 2_000.0
    assert marks.use("k", "9", 2_060.0) == "first"
    assert len(marks) == 1


def test_against_a_plain_model() -> None:
    time, dice = Time(), random.Random(5)
    marks, model = Marks(time), dict[str, float]()
    for _ in range(5_000):
        time.now += dice.random()
        digest = str(dice.randrange(300))
        end = time.now + dice.uniform(0, 60)
        known = digest in model and time.now < model[digest]
        found = marks.use("k", digest, end)
        assert found in ("first", "used")
        if known:
            assert found == "used"  # never forgotten too soon; a little late is fine
        if found == "first":
            model[digest] = end
