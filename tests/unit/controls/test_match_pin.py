"""Which requests the pins stop: every way to name an item, and every way for an item to have no pin at all."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.base.clock import FakeClock
from doorward.catalogue.pins import Row, State
from doorward.catalogue.server import ServerSpec
from doorward.controls.control import Call, Head, Refuse
from doorward.controls.match_pin import MatchPin
from doorward.gateway.desk import Desk
from doorward.gateway.facts import FactBook
from doorward.gateway.naming import item_of
from doorward.gateway.pinned import PinDesk
from doorward.identity.principal import Principal
from doorward.protocol.message import Message


def desk_with(*rows: tuple[str, str, State]) -> PinDesk:
    pins = PinDesk(lambda _, then: then(None), FakeClock())
    pins.adopt(
        Row("s", kind, name, 1, "sha256:0", state, "current" if state == "approved" else "none")  # type: ignore[arg-type]
        for kind, name, state in rows
    )
    return pins


def call(method: str, params: dict[str, Any]) -> Call:
    message = Message(kind="request", method=method, id=1, params=params, value={})
    one = Call(
        head=Head(verb="POST", path="/", query="", fields={}, repeated=frozenset()),
        principal=Principal(tenant="t", issuer="i", subject="s", client="c", roles=()),
        server="s",
        era="modern",
        message=message,
        event="e",
    )
    one.item = item_of(message)
    return one


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "x"}),
        ("prompts/get", {"name": "x"}),
        ("resources/read", {"uri": "x"}),
        ("resources/subscribe", {"uri": "x"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "x"}, "argument": {}}),
    ],
)
def test_a_held_item_is_out_of_reach_by_every_method_that_names_it(
    method: str, params: dict[str, Any]
) -> None:
    kinds = ("tool", "prompt", "resource", "template")
    for state, stops in (("held", True), ("rejected", True), ("approved", False)):
        rows: Any = [(kind, "x", state) for kind in kinds]
        control = MatchPin(desk_with(*rows), {"s": "first-use"})
        assert isinstance(control.request(call(method, params), {}), Refuse) is stops
    if method != "tools/call":  # those are listed first
        assert isinstance(MatchPin(desk_with(), {"s": "review"}).request(call(method, params), {}), Refuse)


def test_a_tool_that_was_listed_but_has_no_pin_is_never_taken_for_known() -> None:
    """A server may list more than is kept; what is beyond that is compared with nothing, so it must not run."""
    pins = desk_with(("tool", "kept", "approved"))
    pins.admit("s", "tools", {"tools": []}, "", lambda _: None)
    desk = Desk.__new__(Desk)
    desk.facts, desk._pins = FactBook(FakeClock()), pins  # noqa: SLF001
    desk.servers = {"s": ServerSpec(name="s", url="http://localhost:1")}
    desk.facts.learn("s", [{"name": "kept"}, {"name": "beyond"}])
    assert pins.is_verified("s", "anyone")
    assert desk.known_tool(call("tools/call", {"name": "kept"})) is not None
    beyond = call("tools/call", {"name": "beyond"})
    assert desk.known_tool(beyond) is None
    beyond.listed = True  # as after the list that follows
    assert isinstance(MatchPin(pins, {"s": "first-use"}).request(beyond, {}), Refuse)
