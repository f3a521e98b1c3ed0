from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from doorward.controls.control import Call, Head, Refuse
from doorward.controls.present_credential import Lack, PresentCredential
from doorward.identity.principal import Principal
from doorward.protocol.message import Message

ALICE = Principal(tenant="t", issuer="i", subject="alice", client="c")
LACK = Lack("Link your account.", "https://d.example/connect/up?client=c", "credential-missing")


class Book:
    """Credentials as a test wants them."""

    def __init__(self, answer: Any = None, *, needs: str = "up", idle: bool = False) -> None:
        self.answer, self._needs, self.is_idle = answer, needs, idle
        self.known: list[tuple[str, str]] = []
        self.asked: list[str] = []

    def needs(self, server: str) -> bool:
        return server == self._needs

    def know(self, principal: Principal, authorization: str) -> None:
        self.known.append((principal.subject, authorization))

    def obtain(self, server: str, principal: Principal) -> Any:
        self.asked.append(server)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def call(*, server: str = "up", kind: str = "request", era: str = "modern", capabilities: Any = None) -> Call:
    head = Head(
        verb="POST",
        path="/up/mcp",
        query="",
        fields={"authorization": "Bearer inbound"},
        repeated=frozenset(),
    )
    message = Message(kind, "tools/call", 1, {}, {})  # type: ignore[arg-type]
    made = Call(head=head, principal=ALICE, server=server, era=era, message=message, event="E")  # type: ignore[arg-type]
    made.capabilities = capabilities or {}
    return made


def judge(control: PresentCredential, made: Call) -> Any:
    verdict = control.request(made, {})
    if isinstance(verdict, Awaitable):

        async def wait() -> Any:
            return await verdict

        return asyncio.run(wait())
    return verdict


def test_a_call_with_a_credential_goes_on_and_the_token_is_known_to_the_book_only() -> None:
    book = Book()
    made = call()
    assert judge(PresentCredential(book), made) is None
    assert book.known == [("alice", "inbound")]
    assert made.message.value == {}


@pytest.mark.parametrize(
    ("book", "made"),
    [
        (Book(LACK, idle=True), call()),
        (Book(LACK, needs="other"), call()),
        (Book(LACK), call(kind="notification")),
    ],
)
def test_what_needs_no_token_is_not_asked_about(book: Book, made: Call) -> None:
    assert judge(PresentCredential(book), made) is None
    assert book.asked == book.known == []
    assert judge(PresentCredential(None), made) is None


def test_a_fan_out_is_known_and_decided_server_by_server() -> None:
    book = Book(LACK)
    assert judge(PresentCredential(book), call(server="")) is None
    assert book.known
    assert not book.asked


@pytest.mark.parametrize("is_late", [False, True])
def test_without_a_credential_it_refuses_and_says_where_to_link(is_late: bool) -> None:  # noqa: FBT001
    async def later() -> Lack:
        return LACK

    found = judge(PresentCredential(Book(later() if is_late else LACK)), call())
    assert isinstance(found, Refuse)
    assert (found.code, found.tell, found.reason) == (-31007, LACK.tell, LACK.reason)
    assert found.extra == {"server": "up", "url": LACK.url}
    assert LACK.url in found.help
    plain = judge(PresentCredential(Book(Lack("No.", "", "x"))), call())
    assert plain.extra == {"server": "up"}


@pytest.mark.parametrize(
    ("era", "capabilities", "code"),
    [
        ("legacy", {"elicitation": {"url": {}}}, -32042),
        ("legacy", {"elicitation": {"form": {}}}, -31007),
        ("legacy", {"elicitation": True}, -31007),
        ("legacy", {"elicitation": {"url": True}}, -31007),
        ("modern", {"elicitation": {"url": {}}}, -31007),
    ],
)
def test_a_legacy_client_that_shows_urls_is_asked_to(era: str, capabilities: Any, code: int) -> None:
    found = judge(PresentCredential(Book(LACK)), call(era=era, capabilities=capabilities))
    assert found.code == code
    assert "inbound" not in str(found)


def test_a_book_that_fails_is_the_pipelines_to_refuse() -> None:
    with pytest.raises(RuntimeError):
        judge(PresentCredential(Book(RuntimeError("gone"))), call())
