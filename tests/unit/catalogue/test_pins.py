"""What follows from approved and offered definitions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.base.errors import CallerError
from doorward.catalogue.definition import pin_of
from doorward.catalogue.pins import FORM_BYTES, ITEMS_COUNT, NAME_CHARS, SERVER_BYTES, PinBook, Scanned

A, B, C = b'{"name":"t"}', b'{"description":"b","name":"t"}', b'{"description":"c","name":"t"}'
BAD = Scanned("block", ({"rule": "x"},))


def offer(
    book: PinBook,
    form: bytes,
    who: str = "alice",
    trust: Any = "first-use",
    scan: Scanned = Scanned(),
    name: str = "t",
) -> Any:
    return book.present("s", "tool", name, form, principal=who, trust=trust, scan=scan, now=1.0)


def item(book: PinBook) -> Any:
    return book.find("s", "tool", "t")


@pytest.mark.parametrize(
    ("trust", "scan", "state"),
    [
        ("first-use", Scanned(), "approved"),
        ("first-use", Scanned("flag"), "approved"),
        ("first-use", BAD, "held"),
        ("review", Scanned(), "held"),
        ("signed", Scanned(), "held"),
    ],
)
def test_first_sight(trust: str, scan: Scanned, state: str) -> None:
    book = PinBook()
    assert offer(book, A, trust=trust, scan=scan).item.state == state
    assert offer(book, A, trust=trust, scan=scan) is None  # the same again is nothing new
    assert item(book).served("keep") == ("current" if state == "approved" else "none")


def test_a_change_holds_the_item_for_everybody_until_it_is_back() -> None:
    book = PinBook()
    offer(book, A)
    assert offer(book, B, "bob").method == "definition-changed"
    assert (item(book).state, item(book).served("withdraw"), item(book).served("keep")) == (
        "held",
        "none",
        "previous",
    )
    assert offer(book, A, "alice") is None  # what she is shown was never the trouble
    assert item(book).state == "held"
    assert offer(book, A, "bob").method == "definition-restored"
    assert item(book).state == "approved"


def test_an_approval_is_of_one_definition() -> None:
    book = PinBook()
    offer(book, A)
    offer(book, B)
    with pytest.raises(CallerError) as stale:
        book.approve("s", "tool", "t", pin_of(C), "os:0", 2.0)
    assert stale.value.code == "definition-stale"
    assert book.approve("s", "tool", "t", pin_of(B), "os:0", 2.0).state == "approved"
    assert (item(book).pin, item(book).approved_by) == (pin_of(B), "os:0")
    offer(book, C, "eve")
    assert (
        book.approve("s", "tool", "t", pin_of(B), "os:0", 3.0).state == "held"
    )  # eve still sees another one


def test_what_was_rejected_stays_so_until_something_else_is_offered() -> None:
    book = PinBook()
    offer(book, A, trust="review")
    book.reject("s", "tool", "t", "os:0", 2.0)
    assert offer(book, A, trust="review") is None
    assert item(book).state == "rejected"
    assert offer(book, B, trust="review").item.state == "held"


def test_too_many_and_too_large_are_held() -> None:
    book = PinBook()
    large = b'"' + b"x" * FORM_BYTES + b'"'
    assert offer(book, large).method == "definition-refused"
    with pytest.raises(CallerError):
        book.approve("s", "tool", "t", pin_of(large), "os:0", 2.0)
    for number in range(ITEMS_COUNT):
        offer(book, A, name=f"n{number}")
    assert offer(book, A, name="one-more").item.state == "held"
    assert ("s", "tool", "one-more") not in book.items


_offers = st.lists(st.tuples(st.sampled_from(["ann", "bob", "eve"]), st.sampled_from([A, B, C])), max_size=30)


@given(_offers)
def test_it_is_approved_exactly_while_nobody_is_shown_anything_else(offers: list[tuple[str, bytes]]) -> None:
    """The model: what each principal was shown last, against the pin of the first sight."""
    book, shown = PinBook(), dict[str, bytes]()
    for who, form in offers:
        offer(book, form, who)
        shown[who] = form
    if offers:
        first = offers[0][1]
        expected = "approved" if all(form == first for form in shown.values()) else "held"
        assert (item(book).state, item(book).pin) == (expected, pin_of(first))


@given(_offers)
def test_a_version_only_grows_and_grows_with_every_change_of_a_row(offers: list[tuple[str, bytes]]) -> None:
    book, seen = PinBook(), dict[int, Any]()
    for who, form in offers:
        offer(book, form, who)
        (row,) = book.rows("s", "keep")
        assert seen.setdefault(row.version, row) == row
        assert row.version == max(seen)


def test_an_approved_definition_that_is_rejected_does_not_come_back_by_a_change_there_and_back() -> None:
    book = PinBook()
    offer(book, A)
    book.reject("s", "tool", "t", "os:0", 2.0)
    assert (item(book).state, item(book).served("keep")) == ("rejected", "none")
    assert offer(book, A, "bob") is None
    offer(book, B)
    assert offer(book, A).item.state == "held"
    assert item(book).served("keep") == "none"


def test_what_was_rejected_stays_so_whoever_else_is_shown_it() -> None:
    book = PinBook()
    offer(book, A)
    offer(book, B)
    book.reject("s", "tool", "t", "os:0", 2.0)
    assert offer(book, B, "bob") is None
    assert (item(book).state, item(book).served("keep")) == ("rejected", "previous")


def test_a_server_cannot_fill_the_memory_with_names_or_with_definitions() -> None:
    book = PinBook()
    assert offer(book, A, name="n" * (NAME_CHARS + 1)).item.state == "held"
    large = b'"' + b"x" * (FORM_BYTES - 2) + b'"'
    for number in range(SERVER_BYTES // FORM_BYTES + 8):
        offer(book, large, name=f"n{number}")
        offer(book, large.replace(b"x", b"y"), name=f"n{number}")
    assert sum(len(one.approved) + len(one.offered) for one in book.items.values()) <= SERVER_BYTES
    assert ("s", "tool", "n" * (NAME_CHARS + 1)) not in book.items
