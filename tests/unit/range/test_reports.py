"""Results for other programs: well-formed, and a hole never looks like a success."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from doorward.range.lab import EXPECTED, Outcome
from doorward.range.reports import junit, sarif, what_failed
from doorward.range.runner import Evidence, PhaseEvidence, Result


def result(
    vulnerable: Outcome, fixed: Outcome, rolled_back: Outcome, why: str = 'a "quoted" <why>'
) -> Result:
    outcomes = {"vulnerable": vulnerable, "fixed": fixed, "rolled_back": rolled_back}
    phases = {name: PhaseEvidence(one, True, 0, 0, False, [], [], why) for name, one in outcomes.items()}
    evidence = Evidence(True, 0, 0, False, ["01ABC"], [], "verified", [], phases)
    ok = all(outcomes[phase] == EXPECTED[phase] for phase in EXPECTED)
    return Result(
        "L01", "Open server", "modern", "modern-legacy", vulnerable, fixed, rolled_back, ok, evidence
    )


GOOD = result("exploited", "blocked", "exploited")
HOLE = result("exploited", "exploited", "exploited")
UNCLEAR = result("exploited", "inconclusive", "exploited")


def test_what_failed_names_phase_and_reason() -> None:
    assert what_failed(GOOD) == ""
    assert what_failed(HOLE) == 'fixed is exploited, not blocked (a "quoted" <why>)'


def test_junit_tells_holes_from_what_is_unclear() -> None:
    suite = ET.fromstring(junit([GOOD, HOLE, UNCLEAR]))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    cases = list(suite)
    assert [[child.tag for child in case] for case in cases] == [[], ["failure"], ["error"]]
    assert "<why>" in (cases[1][0].get("message") or "")


def test_sarif_has_one_rule_a_lab_and_one_result_for_each_that_is_not_ok() -> None:
    run = sarif([GOOD, HOLE, UNCLEAR])["runs"][0]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["L01"]
    assert [one["level"] for one in run["results"]] == ["error", "warning"]
