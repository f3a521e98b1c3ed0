"""Controls in order: what each verdict does, and that whatever goes wrong refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from doorward.controls.control import Call, Claim, Control, Head, Hold, Note, Refuse, Rewrite
from doorward.gateway.pipeline import Pipeline, Placed, Ruling
from doorward.identity.principal import LOCAL
from doorward.protocol.envelope import message_of

NO = Refuse(reason="because", tell="No.")


class Says(Control):
    """A control that answers what a test wants; calls are counted."""

    def __init__(self, slug: str, verdict: Any = None) -> None:
        self.slug = slug  # type: ignore[misc]
        self.verdict = verdict
        self.asked = 0

    def request(self, call: Call, seen: Any) -> Any:
        self.asked += 1
        return self.verdict(call) if callable(self.verdict) else self.verdict


class Elsewhere(Control):
    """A control with the other hooks."""

    slug = "elsewhere"

    def __init__(self, verdict: Any) -> None:
        self.verdict = verdict
        self.told: list[str] = []

    def _say(self) -> Any:
        return self.verdict() if callable(self.verdict) else self.verdict

    def head(self, head: Head) -> Any:
        return self._say()

    def listing(self, call: Call, items: Any, key: str) -> Any:
        return self._say()

    def reply(self, call: Call, reply: Any) -> Any:
        return self._say()

    def notice(self, notice: Any, server: str, capabilities: Any) -> Any:
        return self._say()

    def claim(self, caller: Any, claim: Claim) -> Any:
        return self._say()

    def settled(self, call: Call, outcome: str) -> None:
        self.told.append(outcome)
        if callable(self.verdict):
            self.verdict()


def call() -> Call:
    head = Head(verb="POST", path="/s/mcp", query="", fields={}, repeated=frozenset())
    message = message_of({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a"}})
    return Call(head=head, principal=LOCAL, server="s", era="modern", message=message, event="e")


def judge(
    *controls: Any, mode: Any = "enforce", spawn: Callable[[Any], None] | None = None
) -> tuple[Any, Call]:
    placed = [one if isinstance(one, Placed) else Placed(one, mode) for one in controls]
    judged, found = call(), []
    Pipeline(placed, spawn or (lambda coroutine: coroutine.close())).judge_request(judged, found.append)
    return (found[0] if found else "waiting"), judged


def boom(*_: Any) -> Any:
    raise RuntimeError("secret detail")


# -- verdicts -------------------------------------------------------------------------------------------------------


def test_nothing_against_it_lets_it_pass() -> None:
    assert judge(Says("a"), Says("b"))[0] is None
    assert judge()[0] is None


def test_the_first_refusal_ends_the_round() -> None:
    later = Says("later", NO)
    ruling, _ = judge(Says("a"), Says("b", NO), later)
    assert isinstance(ruling, Ruling) and ruling.slug == "b" and ruling.refuse is NO and later.asked == 0


def test_a_note_stops_nothing_and_goes_on_record() -> None:
    ruling, judged = judge(Says("a", Note("odd")))
    assert ruling is None and judged.notes == ["a: odd"]


def test_a_hold_refuses_until_somebody_can_be_asked() -> None:
    ruling, _ = judge(Says("a", Hold("needs consent", "Ask somebody.")))
    assert ruling.refuse.code == -31002 and ruling.refuse.tell == "Ask somebody."
    assert ruling.refuse.reason == "needs consent"


def renamed(to: str) -> Callable[[Call], Any]:
    def verdict(judged: Call) -> Any:
        assert judged.message.params is not None
        if judged.message.params["name"] == to:
            return None
        return Rewrite("renamed", {**judged.message.value, "params": {"name": to}})

    return verdict


def test_a_rewrite_is_seen_by_the_controls_before_it_too() -> None:
    seen: list[str] = []
    watcher = Says("watch", lambda judged: seen.append(judged.message.params["name"]))
    ruling, judged = judge(watcher, Says("b", renamed("z")))
    assert ruling is None and seen == ["a", "z"]
    assert judged.message.params == {"name": "z"} and judged.notes == ["b rewrote: renamed"]


def test_two_controls_that_rewrite_each_other_are_refused() -> None:
    ruling, _ = judge(Says("x", renamed("x")), Says("y", renamed("y")))
    assert isinstance(ruling, Ruling)


def test_a_rewrite_to_what_is_no_message_is_refused() -> None:
    ruling, _ = judge(Says("a", lambda _: Rewrite("broken", {"jsonrpc": "1.0"})))
    assert ruling.slug == "a" and "crashed" in ruling.refuse.reason


@pytest.mark.parametrize("verdict", [True, False, 0, "", "no", {}, frozenset()], ids=repr)
def test_what_is_no_verdict_refuses(verdict: Any) -> None:
    ruling, _ = judge(Says("a", verdict))
    assert isinstance(ruling, Ruling) and ruling.slug == "a"


def test_a_crash_refuses_and_tells_no_detail() -> None:
    ruling, _ = judge(Says("a", boom))
    assert (
        ruling.slug == "a" and "secret" not in ruling.refuse.tell + ruling.refuse.reason + ruling.refuse.help
    )


# -- modes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [NO, Hold("h", "t"), Rewrite("r", {})])
def test_in_report_a_verdict_is_noted_only(verdict: Any) -> None:
    ruling, judged = judge(Says("a", verdict), mode="report")
    assert ruling is None and len(judged.notes) == 1 and "would" in judged.notes[0]
    assert judged.message.params == {"name": "a"}


def test_in_report_a_crash_still_refuses() -> None:
    assert isinstance(judge(Says("a", boom), mode="report")[0], Ruling)


def test_what_is_off_is_not_asked() -> None:
    off = Says("a", NO)
    assert judge(off, mode="off")[0] is None and off.asked == 0


# -- waiting --------------------------------------------------------------------------------------------------------


def wait_for(result: Any, *after: Any) -> Any:
    async def verdict() -> Any:
        await asyncio.sleep(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def run() -> Any:
        tasks: list[Any] = []
        found: list[Any] = []
        placed = [Placed(one, "enforce") for one in (Says("slow", lambda _: verdict()), *after)]
        Pipeline(placed, lambda one: tasks.append(asyncio.ensure_future(one))).judge_request(
            call(), found.append
        )
        assert found == []
        await asyncio.gather(*tasks)
        return found

    return asyncio.run(run())


def test_a_control_may_wait_and_the_round_goes_on_after_it() -> None:
    after = Says("after")
    assert wait_for(None, after) == [None] and after.asked == 1
    (ruling,) = wait_for(NO, after)
    assert ruling.slug == "slow" and after.asked == 1
    (ruling,) = wait_for(None, Says("after", NO))
    assert ruling.slug == "after"


def test_a_control_that_fails_while_it_waits_refuses() -> None:
    (ruling,) = wait_for(RuntimeError("x"))
    assert ruling.slug == "slow"
    (ruling,) = wait_for("nonsense")
    assert ruling.slug == "slow"


# -- the other hooks ------------------------------------------------------------------------------------------------


def everywhere(verdict: Any, mode: Any = "enforce") -> list[Ruling | None]:
    pipeline = Pipeline([Placed(Elsewhere(verdict), mode)], lambda coroutine: coroutine.close())
    judged = call()
    return [
        pipeline.judge_head(judged.head, frozenset({"elsewhere"}), inside=True),
        pipeline.judge_listing(judged, [], "tools"),
        pipeline.judge_reply(judged, judged.message),
        pipeline.judge_notice(judged.message, "s", {}),
    ]


def test_the_other_hooks_refuse_and_crash_closed_too() -> None:
    assert everywhere(None) == [None] * 4
    for verdict in (NO, boom):
        assert all(ruling is not None and ruling.slug == "elsewhere" for ruling in everywhere(verdict))
    assert everywhere(NO, "report") == [None] * 4
    assert everywhere(NO, "off") == [None] * 4


def test_the_other_hooks_may_not_wait() -> None:
    async def late() -> None: ...

    assert all(ruling is not None for ruling in everywhere(late))


def test_a_head_is_judged_by_the_named_controls_only() -> None:
    pipeline = Pipeline([Placed(Elsewhere(NO), "enforce")], lambda coroutine: coroutine.close())
    head = call().head
    assert pipeline.judge_head(head, frozenset({"other"}), inside=True) is None
    assert pipeline.judge_head(head, frozenset({"other"}), inside=False) is not None


def test_every_control_hears_the_end_even_when_one_fails() -> None:
    first, second = Elsewhere(boom), Elsewhere(None)
    pipeline = Pipeline(
        [Placed(first, "enforce"), Placed(second, "report")], lambda coroutine: coroutine.close()
    )
    pipeline.settle(call(), "ok")
    assert first.told == second.told == ["ok"]


# -- claims that do not hold -----------------------------------------------------------------------------------------------


def claimed(verdict: Any, mode: Any = "enforce", call: Call | None = None) -> Ruling | None:
    pipeline = Pipeline([Placed(Elsewhere(verdict), mode)], lambda coroutine: coroutine.close())
    return pipeline.judge_claim(call, LOCAL, Claim("session", "f"))


def crashes() -> Any:
    raise RuntimeError("no")


def test_a_claim_counts_unless_a_control_objects() -> None:
    assert claimed(None) is None
    ruling = claimed(NO)
    assert ruling is not None and (ruling.slug, ruling.refuse) == ("elsewhere", NO)
    assert claimed(NO, "off") is None and claimed(NO, "report") is None


@pytest.mark.parametrize("verdict", [crashes, Rewrite("r", {}), 5])
def test_a_control_that_cannot_judge_a_claim_refuses_it(verdict: Any) -> None:
    ruling = claimed(verdict)
    assert ruling is not None and ruling.crashed


def test_what_is_only_reported_without_a_call_at_hand_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert claimed(NO, "report") is None
    (line,) = [one for one in caplog.records if one.message == "would refuse"]
    assert (line.control, line.reason) == ("elsewhere", "because")  # type: ignore[attr-defined]
