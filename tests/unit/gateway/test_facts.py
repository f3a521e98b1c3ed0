"""What the gateway remembers of servers' tools, from servers that list in pages, for ever, wrongly, late or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.gateway.timers import Timers

from doorward.base.clock import FakeClock
from doorward.base.errors import UpstreamError
from doorward.gateway.facts import FactBook
from doorward.protocol.envelope import message_of
from doorward.protocol.message import Message

CALL = message_of({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "_meta": {"progressToken": 1, "k": 2}}})  # fmt: skip


class LateLink:
    """A server that answers when the test says so, as one on a network does."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.sinks: list[Any] = []
        self.cancelled = 0

    def post(self, message: Message, sink: Any) -> Callable[[], None]:
        self.asked.append(message)
        self.sinks.append(sink)

        def cancel() -> None:
            self.cancelled += 1

        return cancel

    def listen(self, last_event_id: str, sink: Any) -> Callable[[], None]:
        raise NotImplementedError

    def close(self) -> None: ...

    def answer(self, **members: Any) -> None:
        """Answer the latest question, and be done with it."""
        sink = self.sinks[-1]
        sink.message(message_of({"jsonrpc": "2.0", "id": self.asked[-1].id, **members}))
        sink.done()

    def page(self, *names: str, **more: Any) -> None:
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
        self.answer(result={"tools": tools, **more})


class Asked:
    """A book, a server, and what the callers were told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.timers = Timers()
        self.book = FactBook(self.clock, self.timers)
        self.link = LateLink()
        self.told: list[tuple[str, bool]] = []

    def ask(self, tool: str) -> None:
        self.book.ensure("s", tool, CALL, self.link, lambda exists: self.told.append((tool, exists)))


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_a_listed_tool_exists_and_another_does_not(asked: Asked) -> None:
    asked.ask("a")
    asked.link.page("a")
    asked.ask("a")
    asked.ask("b")
    assert asked.told == [("a", True), ("a", True), ("b", False)]
    assert len(asked.link.asked) == 1


def test_our_question_carries_the_callers_meta_but_not_its_progress_token(asked: Asked) -> None:
    asked.ask("a")
    assert asked.link.asked[0].params == {"_meta": {"k": 2}}


def test_the_end_of_one_page_is_not_the_end_of_the_list(asked: Asked) -> None:
    asked.ask("b")
    asked.ask("nowhere")
    asked.link.page("a", nextCursor="2")
    assert asked.told == []
    asked.link.page("b")
    assert asked.told == [("b", True), ("nowhere", False)]
    assert asked.link.asked[1].params is not None and asked.link.asked[1].params["cursor"] == "2"


def test_an_endless_cursor_is_followed_only_so_far(asked: Asked) -> None:
    asked.ask("x")
    for number in range(200):
        if asked.told:
            break
        asked.link.page(f"t{number}", nextCursor="on")
    assert asked.told == [("x", False)] and len(asked.link.asked) == 50


@pytest.mark.parametrize(
    "fail",
    [
        lambda link: link.answer(error={"code": -32601, "message": "no"}),
        lambda link: link.answer(result={}),
        lambda link: link.answer(result={"tools": "none"}),
        lambda link: link.sinks[-1].done(),
        lambda link: link.sinks[-1].failed(UpstreamError("upstream-broke", "It broke.")),
    ],
    ids=["error", "no tools", "no list", "no answer", "broken"],
)
def test_a_server_that_cannot_list_is_taken_at_its_word_and_not_asked_at_once_again(
    asked: Asked, fail: Callable[[LateLink], None]
) -> None:
    asked.ask("a")
    asked.ask("b")
    fail(asked.link)
    assert asked.told == [("a", True), ("b", True)]
    asked.ask("c")
    assert asked.told[-1] == ("c", True) and len(asked.link.asked) == 1
    asked.clock.advance(6)
    asked.ask("d")
    assert len(asked.link.asked) == 2
    assert len(asked.timers.set) == 1, "a timer is left behind"


def test_a_list_that_never_comes_holds_nobody_for_ever(asked: Asked) -> None:
    asked.ask("a")
    asked.ask("b")
    asked.timers.fire()
    assert asked.told == [("a", True), ("b", True)]
    assert asked.link.cancelled == 1
    asked.link.page("late")
    assert asked.book.of("s", "late") is None


def test_a_list_that_hangs_on_its_second_page_holds_nobody_either(asked: Asked) -> None:
    asked.ask("b")
    asked.link.page("a", nextCursor="2")
    asked.timers.fire()
    assert asked.told == [("b", True)] and asked.timers.set == []


def test_a_list_that_changes_while_it_is_read_is_read_again(asked: Asked) -> None:
    asked.ask("new")
    asked.book.forget("s")
    asked.link.page("old")
    assert asked.told == []
    asked.link.page("new")
    assert asked.told == [("new", True)]
    assert asked.book.of("s", "new") is not None and asked.book.of("s", "old") is None


def test_a_list_that_changes_all_the_time_is_read_a_few_times_only(asked: Asked) -> None:
    asked.ask("a")
    for _ in range(10):
        if asked.told:
            break
        asked.book.forget("s")
        asked.link.page("a")
    assert asked.told == [("a", True)] and len(asked.link.asked) == 3


def test_a_forgotten_server_is_listed_again(asked: Asked) -> None:
    asked.ask("a")
    asked.link.page("a")
    asked.book.forget("s")
    assert asked.book.of("s", "a") is None
    asked.ask("a")
    assert len(asked.link.asked) == 2


def test_ever_new_names_do_not_fill_the_memory(asked: Asked) -> None:
    for page in range(30):
        asked.book.learn("s", [{"name": f"{page}-{number}"} for number in range(1_000)])
    facts = asked.book._servers["s"]
    assert len(facts.tools) <= 10_000
    assert asked.book.of("s", "29-999") is not None


@pytest.mark.parametrize(
    ("annotations", "read_only"),
    [({"readOnlyHint": True}, True), ({"readOnlyHint": "true"}, False), ({"readOnlyHint": 1}, False), ("x", False), (None, False)],
)  # fmt: skip
def test_only_a_true_hint_makes_a_tool_read_only(asked: Asked, annotations: Any, read_only: bool) -> None:
    asked.book.learn("s", [{"name": "t", "annotations": annotations, "inputSchema": []}, {"name": 5}])
    known = asked.book.of("s", "t")
    assert known is not None and known.read_only is read_only and known.schema is None
    assert asked.book.schema_of("s", message_of({"jsonrpc": "2.0", "id": 1, "method": "ping"})) is None


def test_many_changes_at_once_are_forgotten_here_and_told_to_others_as_one() -> None:
    timers, told = Timers(), []
    book = FactBook(FakeClock(), timers)
    book.tell = told.append
    for _ in range(3):
        book.learn("s", [{"name": "x", "inputSchema": {}}])
        book.changed("s")
        assert book.of("s", "x") is None
    assert told == []
    timers.fire()
    assert told == ["s"]
    book.changed("s")
    timers.fire()
    assert told == ["s", "s"]


def test_what_is_only_forgotten_is_not_told() -> None:
    timers = Timers()
    FactBook(FakeClock(), timers).forget("s")
    assert timers.set == []


def test_two_callers_with_views_of_their_own_are_listed_over_their_own_links() -> None:
    asked = Asked()
    other = LateLink()
    heard: list[bool] = []
    asked.book.ensure("s", "a", CALL, asked.link, heard.append, anew=True, view="ann")
    asked.book.ensure("s", "a", CALL, other, heard.append, anew=True, view="bob")
    asked.book.ensure("s", "a", CALL, other, heard.append, anew=True, view="bob")
    assert (len(asked.link.asked), len(other.asked)) == (1, 1)
    asked.link.page("a")
    assert heard == [True]
    other.page("a")
    assert heard == [True, True, True]
