"""The catalogue is complete, and nobody claims what it does not have."""

from __future__ import annotations

import importlib
import pkgutil

import doorward.controls
from doorward.controls.catalogue import CATALOGUE, coverage, unknown_claims
from doorward.controls.control import Control, Posture

BULLETS = {1: 7, 2: 7, 3: 6, 4: 6, 5: 6, 6: 6, 7: 6, 8: 6, 9: 6, 10: 6, 11: 6, 12: 6}
ADDED = ["N-M4", *(f"N2.{n}" for n in range(1, 8)), "N7.2"]


class Whole(Control):
    slug = "do-whole"
    covers = ("M1",)


class Half(Posture):
    slug = "do-half"
    partly = ("M1", "S2.1")


class Wrong(Control):
    slug = "do-wrong"
    covers = ("S99.1",)


def claimants() -> list[type]:
    found = []
    for module in pkgutil.iter_modules(doorward.controls.__path__):
        if module.name not in ("order", "control", "catalogue"):
            held = vars(importlib.import_module(f"doorward.controls.{module.name}")).values()
            found += [
                c
                for c in held
                if isinstance(c, type) and issubclass(c, Control | Posture) and hasattr(c, "slug")
            ]
    return found


def test_the_catalogue_has_exactly_its_87_ids():
    wanted = [
        "M1",
        "M2",
        "M3",
        "M4",
        *(f"S{s}.{n}" for s, count in BULLETS.items() for n in range(1, count + 1)),
    ]
    assert list(CATALOGUE) == wanted + ADDED
    assert len(CATALOGUE) == 87


def test_titles_are_short_and_distinct():
    assert len(set(CATALOGUE.values())) == 87
    assert all(10 <= len(title) <= 100 for title in CATALOGUE.values())


def test_a_whole_claim_beats_a_partial_one_and_the_rest_is_missing():
    rows = {row.id: row for row in coverage([Half, Whole])}
    assert len(rows) == 87
    assert (rows["M1"].status, rows["M1"].by) == ("covered", ["do-half", "do-whole"])
    assert (rows["S2.1"].status, rows["S2.1"].by) == ("partial", ["do-half"])
    assert (rows["M3"].status, rows["M3"].by) == ("missing", [])


def test_a_claim_on_an_unknown_id_is_found():
    assert unknown_claims([Whole, Wrong]) == [("do-wrong", "S99.1")]


def test_every_id_that_a_control_claims_exists():
    assert unknown_claims(claimants()) == []


def test_no_control_claims_an_id_whole_and_in_part():
    for claimant in claimants():
        assert not set(claimant.covers) & set(claimant.partly), claimant.slug


def test_a_slug_is_its_file_name_with_hyphens():
    for claimant in claimants():
        assert claimant.slug == claimant.__module__.rpartition(".")[2].replace("_", "-")
