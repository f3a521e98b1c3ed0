"""A server of one era behind Doorward while its clients break off: ``soak_cancel_upstream.py PORT legacy|modern``.

It counts what is open here, and what does not belong together: ``GET /state``. Each tool's argument ``nonce`` is the caller's
own; it comes back in the answer, in progress and in the question, and the answer to a question has to bring it again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

MODERN = "2026-07-28"
TOOLS = ("echo", "steps", "ask")
ERAS = {"legacy": "2025-11-25", "modern": MODERN}
HINTS = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
FORM = {"type": "object", "properties": {"about": {"type": "string"}}, "required": ["about"]}


class Books:
    """What is open at this server, and what went wrong."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.calls: dict[asyncio.Task[None], str] = {}
        self.made = 0
        self.streams = 0
        self.counts = {"calls": 0, "cancelled": 0, "overtaken": 0, "sessions": 0}
        self.faults: list[str] = []

    def state(self) -> dict[str, Any]:
        return {
            "calls": len(self.calls), "open": sorted(self.calls.values())[:20], "sessions": len(self.sessions), "streams": self.streams, "seen": self.counts,
            "questions": sum(len(one.questions) for one in self.sessions.values()), "faults": self.faults,
        }  # fmt: skip


class Session:
    """One session of the older era: its calls by id, and the questions that wait."""

    def __init__(self) -> None:
        self.calls: dict[Any, asyncio.Task[None]] = {}
        self.questions: dict[str, asyncio.Future[Any]] = {}
        self.unknown: set[Any] = set()  # ids of cancellations that came before or after their call


BOOKS = Books()


class Upstream(asyncio.Protocol):
    """One connection: a request at a time, as HTTP/1.1 without pipelining."""

    era = ""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.data = transport, b""
        self.task: asyncio.Task[None] | None = None
        self.is_stream = False

    def connection_lost(self, error: Exception | None) -> None:
        if self.is_stream:
            BOOKS.streams -= 1
        if self.task is not None and self.era == "modern":  # there, leaving is cancelling
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, rest = self.data.partition(b"\r\n\r\n")
            start, *lines = head.decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
            size = int(fields.get("content-length", "0"))
            if len(rest) < size:
                return
            body, self.data = rest[:size], rest[size:]
            verb, path, _ = start.split(" ")
            self.serve(verb, path, fields, json.loads(body) if body else None)

    # -- answers ------------------------------------------------------------------------------------------------

    def send(self, status: str, value: Any = None, fields: str = "") -> None:
        body = b"" if value is None else json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)

    def stream(self) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.transport.write(head.encode())

    def event(self, value: Any, *, last: bool = False) -> None:
        if not self.transport.is_closing():
            event = f"data: {json.dumps(value)}\n\n".encode()
            end = b"0\r\n\r\n" if last else b""
            self.transport.write(f"{len(event):x}\r\n".encode() + event + b"\r\n" + end)

    # -- requests -----------------------------------------------------------------------------------------------

    def serve(self, verb: str, path: str, fields: dict[str, str], message: Any) -> None:
        if path == "/state":
            return self.send("200 OK", BOOKS.state())
        is_modern = fields.get("mcp-protocol-version") == MODERN
        if is_modern != (self.era == "modern"):
            code = -32022 if self.era == "modern" else -32000
            error = {"code": code, "message": "no", "data": {"supported": [ERAS[self.era]]}}
            return self.send("400 Bad Request", {"jsonrpc": "2.0", "id": None, "error": error})
        return self.modern(message) if is_modern else self.legacy(verb, fields, message)

    def legacy(self, verb: str, fields: dict[str, str], message: Any) -> None:
        key = fields.get("mcp-session-id", "")
        session = BOOKS.sessions.get(key)
        if verb == "POST" and message.get("method") == "initialize":
            BOOKS.counts["sessions"] += 1
            key = f"s-{BOOKS.counts['sessions']}"
            BOOKS.sessions[key] = Session()
            result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "soak", "version": "1"}}  # fmt: skip
            return self.send("200 OK", answer_to(message, result), f"Mcp-Session-Id: {key}\r\n")
        if session is None:
            return self.send(
                "404 Not Found", {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "gone"}}
            )
        if verb == "DELETE":
            del BOOKS.sessions[key]
            for task in session.calls.values():
                task.cancel()
            return self.send("200 OK")
        if verb == "GET":
            self.is_stream = True
            BOOKS.streams += 1
            return self.stream()
        if "method" not in message:
            waiting = session.questions.pop(message["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return self.send("202 Accepted")
        if "id" not in message:
            if message["method"] == "notifications/cancelled":
                task = session.calls.pop(message["params"]["requestId"], None)
                if task is not None:
                    task.cancel()
                else:
                    session.unknown.add(message["params"]["requestId"])
            return self.send("202 Accepted")
        if message["method"] != "tools/call":
            return self.send("200 OK", answer_to(message, plain(message)))
        BOOKS.counts["overtaken"] += message["id"] in session.unknown
        if message["id"] in session.calls:
            BOOKS.faults.append(f"the id {message['id']!r} is used twice in a session")
        task = self.start(self.asking(session, message), f"{key} {message['params']['arguments']['nonce']}")
        session.calls[message["id"]] = task
        task.add_done_callback(lambda _: session.calls.pop(message["id"], None))
        return None

    def modern(self, message: Any) -> None:
        if message["method"] == "subscriptions/listen":
            self.is_stream = True
            BOOKS.streams += 1
            self.stream()
            meta = {"io.modelcontextprotocol/subscriptionId": message["id"]}
            method = "notifications/subscriptions/acknowledged"
            return self.event(
                {"jsonrpc": "2.0", "method": method, "params": {"notifications": {}, "_meta": meta}}
            )
        if message["method"] != "tools/call":
            return self.send("200 OK", answer_to(message, {**plain(message), **HINTS}))
        self.start(self.returning(message), message["params"]["arguments"]["nonce"])
        return None

    def start(self, work: Any, name: str) -> asyncio.Task[None]:
        BOOKS.counts["calls"] += 1
        self.task = task = asyncio.get_running_loop().create_task(work)
        BOOKS.calls[task] = name
        task.add_done_callback(self.ended)
        return task

    def ended(self, task: asyncio.Task[None]) -> None:
        del BOOKS.calls[task]
        if self.task is task:
            self.task = None
        if task.cancelled():
            BOOKS.counts["cancelled"] += 1
            if self.era == "legacy" and not self.transport.is_closing():
                self.transport.close()
        elif task.exception() is not None:
            BOOKS.faults.append(f"{task.exception()!r}")

    # -- tools --------------------------------------------------------------------------------------------------

    async def progress(self, message: Any) -> None:
        """Three steps, under the token of the call."""
        given = message["params"]["arguments"]
        token = (message["params"].get("_meta") or {}).get("progressToken")
        for step in (1, 2, 3):
            await asyncio.sleep(given["ms"] / 3_000)
            if token is not None:
                params = {"progressToken": token, "progress": step, "total": 3, "message": given["nonce"]}
                self.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    async def asking(self, session: Session, message: Any) -> None:
        """A call of the older era, on a stream of its own; its question is a request there."""
        given = message["params"]["arguments"]
        self.stream()
        said = given["nonce"]
        if message["params"]["name"] == "steps":
            await self.progress(message)
        elif message["params"]["name"] == "ask":
            await asyncio.sleep(given["ms"] / 2_000)
            BOOKS.made += 1
            number = f"ask-{BOOKS.made}"
            waiting = session.questions[number] = asyncio.get_running_loop().create_future()
            try:
                params = {"mode": "form", "message": given["nonce"], "requestedSchema": FORM}
                self.event({"jsonrpc": "2.0", "id": number, "method": "elicitation/create", "params": params})
                answered = await waiting
            finally:
                session.questions.pop(number, None)
            said = judged(given["nonce"], answered["result"]) if "result" in answered else "not answered"
            await asyncio.sleep(given["ms"] / 2_000)
        else:
            await asyncio.sleep(given["ms"] / 1_000)
        self.event(answer_to(message, content(said)), last=True)

    async def returning(self, message: Any) -> None:
        """A call of the newer era; its question is a result, and the answer comes with the next request."""
        params = message["params"]
        given = params["arguments"]
        said = given["nonce"]
        if params["name"] == "steps":
            self.stream()
            await self.progress(message)
            return self.event(answer_to(message, {**content(said), **HINTS}), last=True)
        await asyncio.sleep(given["ms"] / (2_000 if params["name"] == "ask" else 1_000))
        if params["name"] == "ask":
            answers = params.get("inputResponses")
            if not answers:
                asked = {"mode": "form", "message": said, "requestedSchema": FORM}
                result = {"resultType": "input_required", "requestState": f"state of {said}", "inputRequests": {"q": {"method": "elicitation/create", "params": asked}}}  # fmt: skip
                return self.send("200 OK", answer_to(message, result))
            if params.get("requestState") != f"state of {said}":
                BOOKS.faults.append(f"{said} came with {params.get('requestState')}")
            said = judged(said, answers.get("q"))
        self.send("200 OK", answer_to(message, {**content(said), **HINTS}))
        return None


def judged(nonce: str, result: Any) -> str:
    """What the answer to a question says; noted as a fault when it is the answer to another one."""
    about = ((result or {}).get("content") or {}).get("about")
    if about != f"about {nonce}":
        BOOKS.faults.append(f"asked {nonce}, was answered {about}")
    return f"{nonce}, {about}"


def content(said: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": said}]}


def answer_to(message: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def plain(message: Any) -> dict[str, Any]:
    """What is answered at once."""
    if message["method"] == "tools/list":
        hints = {"readOnlyHint": True}
        return {
            "tools": [
                {"name": name, "inputSchema": {"type": "object"}, "annotations": hints} for name in TOOLS
            ]
        }
    if message["method"] == "server/discover":
        return {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
    return {}


async def serve_upstream(port: int, era: str) -> None:
    Upstream.era = era
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1_024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve_upstream(int(sys.argv[1]), sys.argv[2]))
