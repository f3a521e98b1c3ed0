"""Pages of the supervisor's offices: what crosses, what comes back, and what happens when nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from doorward.adapters.asgi_call import ANSWER_BYTES, call_app
from doorward.base.errors import StoreError
from doorward.controls.control import Head
from doorward.gateway.ports import Reply
from doorward.gateway.routes import Routes
from doorward.gateway.web import IN_FLIGHT_COUNT, WebDoor, reply_of


def head(verb: str = "POST", path: str = "/oauth/token", query: str = "a=%20b") -> Head:
    return Head(
        verb=verb, path=path, query=query, fields={"host": "h", "cookie": "c=1"}, repeated=frozenset()
    )


def test_a_request_crosses_whole_and_its_answer_comes_back() -> None:
    asked: list[tuple[dict[str, Any], Callable[[Any], None]]] = []
    door = WebDoor(lambda payload, then: asked.append((payload, then)))
    replies: list[Reply] = []
    door.serve(head(), b"x=1", "192.0.2.7", replies.append)
    payload, then = asked[0]
    assert payload == {
        "verb": "POST", "path": "/oauth/token", "query": "a=%20b", "fields": {"host": "h", "cookie": "c=1"},
        "body": b"x=1", "address": "192.0.2.7",
    }  # fmt: skip
    then({"status": 201, "fields": [["content-type", "text/plain"], ["content-length", "9"]], "body": b"hi"})
    assert replies == [Reply(201, b"content-type: text/plain\r\n", b"hi")]


def test_too_many_at_once_and_nobody_there_are_503() -> None:
    waiting: list[Callable[[Any], None]] = []
    door = WebDoor(lambda _, then: waiting.append(then))
    replies: list[Reply] = []
    for _ in range(IN_FLIGHT_COUNT + 1):
        door.serve(head(), b"", "192.0.2.7", replies.append)
    assert [one.status for one in replies] == [503]
    waiting[0](None)
    assert [one.status for one in replies] == [503, 503]
    door.serve(head(), b"", "192.0.2.7", replies.append)  # there is room again
    assert len(waiting) == IN_FLIGHT_COUNT + 1


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"status": 99, "fields": [], "body": b""},
        {"status": 200, "fields": [["x", "a\r\nset-cookie: b=1"]], "body": b""},
        {"status": 200, "fields": [["x\n", "a"]], "body": b""},
        {"status": 200, "fields": [["x", "\u00e9"]], "body": b""},
    ],
)
def test_an_answer_that_cannot_be_written_truthfully_is_500(payload: dict[str, Any]) -> None:
    assert reply_of(payload).status == 500


def test_paths_are_exact_or_below_a_prefix() -> None:
    routes = Routes([], "http://h", {}, ["/oauth/token", "/connect/"])
    assert routes.is_web("/oauth/token")
    assert routes.is_web("/connect/time")
    assert not routes.is_web("/oauth/token/")
    assert not routes.is_web("/oauth")
    assert not Routes([], "http://h", {}).is_web("/oauth/token")


async def _echo(request: Request) -> Response:
    text = f"{request.method} {request.url.scheme} {request.query_params['q']} {request.headers['cookie']}"
    return PlainTextResponse(f"{text} {request.client.host} {(await request.body()).decode()}")


async def _go(_: Request) -> Response:
    answer = RedirectResponse("/there", 303)
    answer.set_cookie("a", "1")
    answer.set_cookie("b", "2")
    return answer


async def _huge(_: Request) -> Response:
    return Response(b"x" * (ANSWER_BYTES + 1))


def ask(verb: str, path: str, query: str = "", body: bytes = b"") -> dict[str, Any]:
    app = Starlette(
        routes=[Route("/echo", _echo, methods=["POST"]), Route("/go", _go), Route("/huge", _huge)]
    )
    request = {
        "verb": verb,
        "path": path,
        "query": query,
        "fields": {"host": "h", "cookie": "c=1"},
        "body": body,
        "address": "::1",
    }
    return asyncio.run(call_app(app, request, scheme="https"))


def test_an_app_is_asked_one_whole_request() -> None:
    found = ask("POST", "/echo", "q=%26", b"body")
    assert (found["status"], found["body"]) == (200, b"POST https & c=1 ::1 body")
    gone = ask("GET", "/go")
    assert gone["status"] == 303
    assert sum(name == "set-cookie" for name, _ in gone["fields"]) == 2
    assert ask("GET", "/none")["status"] == 404


def test_an_answer_without_end_is_refused() -> None:
    with pytest.raises(StoreError):
        ask("GET", "/huge")
