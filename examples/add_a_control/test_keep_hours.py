"""Working hours: ordinary traffic passes, the late change is refused, a broken clock refuses."""

from __future__ import annotations

from typing import Any

import pytest
from add_a_control.keep_hours import KeepHours

from doorward.base.clock import FakeClock
from doorward.controls.catalogue import unknown_claims
from doorward.controls.control import Call, Head, Refuse
from doorward.gateway.pipeline import Pipeline, Placed
from doorward.identity.principal import LOCAL
from doorward.protocol.envelope import message_of

MIDNIGHT = 1_800_000_000.0 - 1_800_000_000.0 % 86_400


def call_of(method: str = "tools/call", *, read_only: bool = False) -> Call:
    message = message_of(
        {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "remove", "arguments": {}}}
    )
    head = Head(verb="POST", path="/files/mcp", query="", fields={}, repeated=frozenset())
    call = Call(head=head, principal=LOCAL, server="files", era="legacy", message=message, event="0" * 26)
    call.read_only = read_only
    return call


def clock_at(hour: float) -> FakeClock:
    return FakeClock(MIDNIGHT + hour * 3_600)


@pytest.mark.parametrize("hour", [7, 12, 18.99])
def test_a_tool_that_changes_things_may_be_called_in_working_hours(hour: float):
    assert KeepHours(clock_at(hour)).request(call_of(), {}) is None


@pytest.mark.parametrize("hour", [0, 6.99, 19, 23.99])
def test_a_tool_that_changes_things_is_refused_outside_of_them(hour: float):
    verdict = KeepHours(clock_at(hour)).request(call_of(), {})
    assert isinstance(verdict, Refuse)
    assert verdict.code == -31001


def test_what_only_reads_passes_at_any_time():
    control = KeepHours(clock_at(3))
    assert control.request(call_of(read_only=True), {}) is None
    assert control.request(call_of("tools/list"), {}) is None


def test_a_control_that_crashes_refuses():
    class BrokenClock(FakeClock):
        def now(self) -> float:
            raise OSError

    heard: list[Any] = []
    pipeline = Pipeline([Placed(KeepHours(BrokenClock()), "enforce")], spawn=lambda _: None)
    pipeline.judge_request(call_of(), heard.append)
    assert [ruling.slug for ruling in heard] == ["keep-hours"]


def test_it_claims_only_what_the_catalogue_has():
    assert unknown_claims([KeepHours]) == []
