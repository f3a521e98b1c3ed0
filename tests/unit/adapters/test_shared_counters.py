from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.adapters import shared_counters
from doorward.adapters.shared_counters import SharedCounters, make_counters_file
from doorward.base.clock import FakeClock
from doorward.base.errors import OperatorError, StoreError
from doorward.controls.limit_rate import Demand, Denied, Limit, Ticket, demand


def want(name: str, calls: int = 3, per: float = 10.0, concurrent: int = 0) -> tuple[Demand, ...]:
    return (demand((name,), Limit(calls, per, concurrent)),)


@pytest.fixture(params=[1, 3])
def table(request: pytest.FixtureRequest) -> Iterator[tuple[SharedCounters, FakeClock]]:
    descriptor = make_counters_file(request.param)
    clock = FakeClock(1000.0)
    counters = SharedCounters(descriptor, 0, clock.monotonic)
    yield counters, clock
    counters.close()
    os.close(descriptor)


def admitted(found: Ticket | Denied) -> Ticket:
    assert isinstance(found, Ticket), found
    return found


def test_a_window_admits_exactly_its_calls_and_says_when_to_come_back(
    table: tuple[SharedCounters, FakeClock],
) -> None:
    counters, clock = table
    for _ in range(3):
        counters.release(admitted(counters.admit(want("a"))))
        clock.advance(1)
    assert counters.admit(want("a")) == Denied(0, "calls", 7.0)
    clock.advance(6.5)
    assert counters.admit(want("a")) == Denied(0, "calls", 0.5)
    clock.advance(0.5)
    admitted(counters.admit(want("a")))
    assert counters.admit(want("a")) == Denied(0, "calls", 1.0)
    admitted(counters.admit(want("b")))


def test_calls_at_once_are_limited_until_they_are_over(table: tuple[SharedCounters, FakeClock]) -> None:
    counters, _ = table
    tickets = [admitted(counters.admit(want("a", 100, 1, 2))) for _ in range(2)]
    assert counters.admit(want("a", 100, 1, 2)) == Denied(0, "concurrent", 1.0)
    counters.release(tickets[0])
    admitted(counters.admit(want("a", 100, 1, 2)))


def test_all_limits_are_met_or_none_is_charged(table: tuple[SharedCounters, FakeClock]) -> None:
    counters, _ = table
    both = want("principal", 10) + want("tool", 1)
    counters.release(admitted(counters.admit(both)))
    for _ in range(20):
        assert isinstance(denied := counters.admit(both), Denied)
        assert denied.index == 1
    for _ in range(9):
        admitted(counters.admit(want("principal", 10)))
    assert isinstance(counters.admit(want("principal", 10)), Denied)


def test_what_is_refused_later_leaves_the_window_and_fills_its_own_bucket(
    table: tuple[SharedCounters, FakeClock],
) -> None:
    counters, clock = table
    for _ in range(2):
        counters.give_back(admitted(counters.admit(want("a"))))
    counters.release(admitted(counters.admit(want("a"))))
    counters.give_back(admitted(counters.admit(want("a"))))
    denied = counters.admit(want("a"))
    assert isinstance(denied, Denied)
    assert denied.reason == "refused"
    clock.advance(denied.retry_after_seconds + 0.01)
    admitted(counters.admit(want("a")))
    admitted(counters.admit(want("a")))
    denied = counters.admit(want("a"))
    assert isinstance(denied, Denied)
    assert denied.reason == "calls"


def test_a_full_table_refuses_new_keys_and_gives_stale_places_to_them() -> None:
    descriptor = make_counters_file(1, keys_count=8)
    clock = FakeClock(1000.0)
    counters = SharedCounters(descriptor, 0, clock.monotonic)
    tickets = [admitted(counters.admit(want(f"k{n}", concurrent=5))) for n in range(8)]
    assert isinstance(denied := counters.admit(want("new")), Denied)
    assert denied.reason == "full"
    clock.advance(11)
    assert isinstance(
        counters.admit(want("new")), Denied
    )  # stale by time, but their calls are still under way
    counters.release(tickets[0])
    admitted(counters.admit(want("new")))
    counters.release(tickets[0])  # a late release of a key that has gone changes nothing
    assert isinstance(counters.admit(want("newer")), Denied)


def test_rings_of_forgotten_keys_are_used_again() -> None:
    descriptor = make_counters_file(1, keys_count=4, heap_bytes=8 * 300)
    clock = FakeClock(1000.0)
    counters = SharedCounters(descriptor, 0, clock.monotonic)
    for round_number in range(50):
        calls = (64, 30, 3)[round_number % 3]
        counters.release(admitted(counters.admit(want(f"k{round_number}", calls))))
        clock.advance(20)
    assert isinstance(denied := counters.admit(want("big", 1000)), Denied)
    assert denied.reason == "full"


def test_a_dead_workers_calls_are_no_longer_under_way() -> None:
    descriptor = make_counters_file(2)
    one, two = (SharedCounters(descriptor, n, time.monotonic) for n in range(2))
    for counters in (one, two):
        admitted(counters.admit(want("a", 100, 60, 2)))
    assert isinstance(two.admit(want("a", 100, 60, 2)), Denied)
    two.forget_worker(0)
    admitted(two.admit(want("a", 100, 60, 2)))
    assert isinstance(two.admit(want("a", 100, 60, 2)), Denied)


def test_limits_that_do_not_fit_and_foreign_memory_are_refused() -> None:
    for limit in (Limit(0, 1), Limit(100_001, 1), Limit(1, 0), Limit(1, 1, 70_000), Limit(1, -1)):
        with pytest.raises(OperatorError):
            demand(("x",), limit)
    descriptor = os.memfd_create("other")
    os.ftruncate(descriptor, 65_536)
    with pytest.raises(StoreError):
        SharedCounters.attach(descriptor, 0)
    with pytest.raises(OperatorError):
        SharedCounters.attach(make_counters_file(2), 2)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["ask", "refuse", "wait"]), st.integers(0, 4)), max_size=60),
)
def test_the_window_agrees_with_a_plain_list_of_times(calls: int, steps: list[tuple[str, int]]) -> None:
    descriptor = make_counters_file(1, keys_count=4, heap_bytes=4096)
    clock = FakeClock(1000.0)
    counters = SharedCounters(descriptor, 0, clock.monotonic)
    times: list[float] = []
    per = 5.0
    for step, seconds in steps:
        if step == "wait":
            clock.advance(seconds)
            continue
        found = counters.admit(want("k", calls, per))
        alive = [at for at in times if at > clock.at - per]
        if isinstance(found, Denied) and found.reason == "refused":
            continue
        assert isinstance(found, Ticket) == (len(alive) < calls)
        if isinstance(found, Ticket):
            if step == "refuse":
                counters.give_back(found)
            else:
                counters.release(found)
                times.append(clock.at)
    counters.close()
    os.close(descriptor)


_CHILD = """
    import sys, time
    from doorward.adapters.shared_counters import SharedCounters
    from doorward.controls.limit_rate import Limit, Ticket, demand
    counters = SharedCounters.attach(int(sys.argv[1]), int(sys.argv[2]))
    wanted = (demand(("k",), Limit(200, 60, 0)), demand(("other",), Limit(1000, 60)))
    print("ready", flush=True)
    sys.stdin.readline()
    got = 0
    for _ in range(int(sys.argv[3])):
        found = counters.admit(wanted)
        if isinstance(found, Ticket):
            got += 1
            counters.release(found)
    print(got, flush=True)
    sys.stdin.readline()
"""


def start(descriptor: int, worker: int, attempts: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_CHILD), str(descriptor), str(worker), str(attempts)],
        pass_fds=(descriptor,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_three_processes_together_get_exactly_the_window_even_when_one_is_killed() -> None:
    descriptor = make_counters_file(4)
    children = [start(descriptor, n, 400) for n in range(3)]
    hasty = start(descriptor, 3, 10_000_000)
    streams = collections.deque((*children, hasty))
    for child in streams:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    total = 0
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert child.stdout is not None
        total += int(child.stdout.readline())
    assert total == 200
    assert hasty.stdin is not None
    hasty.stdin.write("go\n")
    hasty.stdin.flush()
    hasty.send_signal(signal.SIGKILL)  # wherever it is, lock held or not
    hasty.communicate()
    counters = SharedCounters.attach(descriptor, 0)
    counters.forget_worker(3)
    assert isinstance(counters.admit(want("fresh", 5)), Ticket)
    for child in children:
        child.communicate("end\n", 5)
    assert shared_counters.WORKERS_COUNT >= 4
