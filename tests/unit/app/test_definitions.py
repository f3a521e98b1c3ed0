"""The office of the pins, over a real state: what a hostile server cannot fill, and what a broken disk cannot hide."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from doorward.adapters.state import State
from doorward.app.definitions import SPACE, Definitions, read_pins
from doorward.base.errors import StoreError
from doorward.catalogue.definition import pin_of
from doorward.catalogue.pins import ITEMS_COUNT, Item, Scanned
from doorward.catalogue.server import ServerSpec
from doorward.console.acts import Asked

WHO = "tenant/local/ann"


class Office:
    """The office with the little of a supervisor that it needs."""

    def __init__(self, folder: Path) -> None:
        self.state = State(folder)
        self.notes: list[tuple[str, str]] = []
        self.scanned = 0
        self.broken = False
        supervisor: Any = SimpleNamespace(
            settings=SimpleNamespace(servers={"s": ServerSpec(name="s", url="http://localhost:1")}),
            workers={},
            ready_state=self._state,
            note=lambda method, who, **more: self.notes.append((method, more.get("item", ""))),  # noqa: ARG005
        )
        self.office = Definitions(supervisor, self._scan)

    def _state(self) -> State:
        if self.broken:
            raise StoreError("state-unusable", "The disk is full.")
        return self.state

    def _scan(self, _: str, __: Any) -> Scanned:
        self.scanned += 1
        return Scanned()

    def present(self, *items: tuple[str, bytes], kind: str = "tool") -> list[Any]:
        payload = {"server": "s", "kind": kind, "principal": WHO, "items": list(items)}
        return asyncio.run(self.office.asks()["present"](0, payload))  # type: ignore[arg-type]

    def act(self, name: str, pin: str) -> Any:
        (act,) = [one for one in self.office.acts() if one.path == name]
        asked = Asked("os:0", {}, {}, body={"server": "s", "kind": "tool", "name": "t", "pin": pin})
        return asyncio.run(act.serve(asked))  # type: ignore[arg-type]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_more_items_than_are_kept_are_neither_scanned_nor_written_nor_recorded_one_by_one(
    office: Office,
) -> None:
    for number in range(ITEMS_COUNT):
        office.office._book.add(Item(server="s", kind="prompt", name=f"p{number}"))  # noqa: SLF001
    many = [(f"n{number}", b'{"name":"n%d"}' % number) for number in range(500)]
    assert office.present(*many) == []  # a worker keeps no rows of them either
    assert office.scanned == 0
    assert office.state.all_kept(SPACE, time.time()) == {}
    assert office.notes == [("definition-refused", "500 of kind tool")]


def test_a_server_that_changes_everything_at_each_list_writes_one_line_each_time(office: Office) -> None:
    for turn in range(3):
        office.present(*((f"n{number}", b'{"turn":%d}' % turn) for number in range(100)))
    assert office.notes == [
        ("definition-pinned", "100 of kind tool"),
        *[("definition-changed", "100 of kind tool")] * 2,
    ]


def test_what_could_not_be_written_is_not_in_force_by_asking_again(office: Office) -> None:
    office.broken = True
    for _ in range(2):
        with pytest.raises(StoreError):
            office.present(("t", b"1"))
    assert office.notes == []
    office.broken = False
    assert len(office.present(("t", b"1"))) == 1
    assert office.notes == [("definition-pinned", "t")]
    assert read_pins(office.state).items[("s", "tool", "t")].state == "approved"


def test_an_approval_that_could_not_be_written_is_none(office: Office) -> None:
    office.present(("t", b"1"))
    office.present(("t", b"2"))
    held = office.office.paper()[0]
    office.broken = True
    with pytest.raises(StoreError):
        office.act("tools/approve", pin_of(b"2"))
    (row,) = office.office.paper()
    assert (row["state"], row["pin"], row["version"] > held["version"]) == ("held", pin_of(b"1"), True)
