"""Tasks belong to whoever made them: a task's id reaches its caller with a seal that no other caller can make.

Many callers may stand behind one credential at a server, so the server cannot keep their tasks apart (2025-11-25
basic/utilities/tasks, security; 2026-07-28 extension io.modelcontextprotocol/tasks). Every worker can check a seal without
remembering anything.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from doorward.base.errors import DoorwardError
from doorward.controls.control import Refuse
from doorward.gateway.pipeline import Ruling
from doorward.gateway.ports import Cancel, Link, Sink
from doorward.protocol import codes
from doorward.protocol.message import Message

if TYPE_CHECKING:
    from doorward.gateway.sessions import Session

_NAMING = frozenset({"tasks/get", "tasks/result", "tasks/update", "tasks/cancel"})
_RELATED = "io.modelcontextprotocol/related-task"
_SEAL_BYTES = 15  # 20 characters
_OWN_COUNT = 1_024  # tasks that a session remembers to have made

NOT_THEIRS = Ruling(
    "ask-policy",
    Refuse(
        reason="not a task of this caller at this server",
        tell="Unknown task.",
        code=codes.INVALID_PARAMS,
        help="Only the caller that made a task can ask for it.",
    ),
)


class OwnTasks:
    """A subscription's link, and the tasks that its caller may hear of: see ``is_foreign``."""

    def __init__(self) -> None:
        self.own_tasks: set[tuple[str, str]] = set()  # (server, its id)
        self._link: Link | None = None
        self.cell = ""

    def note_task(self, server: str, task_id: str) -> None:
        """Remember a task that was made while its caller listened."""
        self.own_tasks.add((server, task_id))

    def over(self, link: Link, cell: str) -> OwnTasks:
        """This, speaking over a link."""
        self._link, self.cell = link, cell
        return self

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        return self._reached.post(message, sink)

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        return self._reached.listen(last_event_id, sink)

    def close(self) -> None:
        """See ``gateway.ports.Link``."""
        self._reached.close()

    @property
    def _reached(self) -> Link:
        if self._link is None:
            raise DoorwardError("no-link", "This subscription has not begun.")
        return self._link


def names_task(message: Message) -> bool:
    """True for a client's request about one task."""
    return message.kind == "request" and message.method in _NAMING


class TaskSeal:
    """Make and check the ids under which callers know their tasks."""

    def __init__(self, key: bytes) -> None:
        """``key``: shared by all workers, 16 to 64 bytes."""
        self._key = hashlib.blake2b(b"doorward tasks 1", key=key, digest_size=32).digest()

    def seal(self, principal: str, server: str, task_id: str) -> str:
        """The id that ``principal`` gets for a task of ``server``."""
        return f"{task_id}.{self._mark(principal, server, task_id)}"

    def open(self, principal: str, server: str, sealed: object) -> str | None:
        """The server's own id; None when this is no task of ``principal`` at ``server``."""
        if not isinstance(sealed, str):
            return None
        task_id, dot, mark = sealed.rpartition(".")
        wanted = self._mark(principal, server, task_id)
        return task_id if dot and hmac.compare_digest(mark.encode(), wanted.encode()) else None

    def _mark(self, principal: str, server: str, task_id: str) -> str:
        parts = (part.encode() for part in (principal, server, task_id))
        content = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        digest = hashlib.blake2b(content, key=self._key, digest_size=_SEAL_BYTES).digest()
        return base64.urlsafe_b64encode(digest).decode()

    def address(self, principal: str, servers: Iterable[str], message: Message) -> tuple[str, Message] | None:
        """The server of the task that a request names, and the request with the server's own id; None: not theirs."""
        params = message.params or {}
        for server in servers:
            task_id = self.open(principal, server, params.get("taskId"))
            if task_id is not None:
                params = {**params, "taskId": task_id}
                value = {**message.value, "params": params}
                return server, Message(message.kind, message.method, message.id, params, value)
        return None

    def subscribed(self, principal: str, server: str, message: Message, mine: OwnTasks) -> Message:
        """A subscription that names only tasks of its caller, by the server's own ids; they are noted in ``mine``."""
        params = message.params or {}
        wanted = params.get("notifications")
        if not isinstance(wanted, dict) or "taskIds" not in wanted:
            return message
        named = wanted["taskIds"] if isinstance(wanted["taskIds"], list) else []
        opened = [self.open(principal, server, one) for one in named[:_OWN_COUNT]] if server else []
        ids = [one for one in opened if one is not None]
        mine.own_tasks = {(server, one) for one in ids}
        params = {**params, "notifications": {**wanted, "taskIds": ids}}
        value = {**message.value, "params": params}
        return Message(message.kind, message.method, message.id, params, value, message.params_fields)

    def sealer(
        self, principal: str, server: str, method: str, session: Session | OwnTasks | None
    ) -> Callable[[Message], None]:
        """A function that seals the task ids in what ``server`` says to ``principal`` about a ``method``, in place."""

        def sealed(holder: Any, *, made: bool) -> None:
            task_id = holder.get("taskId") if isinstance(holder, dict) else None
            if not isinstance(task_id, str):
                return
            if made and session is not None and len(session.own_tasks) < _OWN_COUNT:
                session.note_task(server, task_id)
            if made or (session is not None and (server, task_id) in session.own_tasks):
                holder["taskId"] = self.seal(principal, server, task_id)

        def rename(message: Message) -> None:
            answer = message.value.get("result") if message.kind == "response" else None
            if (
                method == "tools/call"
                and type(answer) is dict
                and "task" not in answer
                and "_meta" not in answer
                and answer.get("resultType") != "task"
            ):
                return  # most answers: nothing in them can name a task
            inner = answer if message.kind == "response" else message.params
            if not isinstance(inner, dict):
                return
            if answer is None:
                if message.kind == "notification" and message.method.startswith("notifications/tasks"):
                    sealed(inner, made=False)
                elif message.method == "notifications/subscriptions/acknowledged":
                    self._acknowledge(inner, principal, server, session)
            elif method == "tasks/list":
                tasks, own = inner.get("tasks"), session.own_tasks if session is not None else ()
                inner["tasks"] = [
                    {**task, "taskId": self.seal(principal, server, task["taskId"])}
                    for task in (tasks if isinstance(tasks, list) else ())
                    if isinstance(task, dict) and (server, task.get("taskId")) in own
                ]
            else:
                sealed(inner.get("task"), made=True)
                if method in _NAMING or inner.get("resultType") == "task":
                    sealed(inner, made=True)
            meta = inner.get("_meta")
            sealed(meta.get(_RELATED) if isinstance(meta, dict) else None, made=method in _NAMING)

        return rename

    def _acknowledge(
        self, params: dict[str, Any], principal: str, server: str, mine: Session | OwnTasks | None
    ) -> None:
        """What a server says that it will tell of: only of the caller's tasks, under the ids that the caller knows."""
        kept = params.get("notifications")
        if not isinstance(kept, dict) or "taskIds" not in kept:
            return
        own = mine.own_tasks if mine is not None else set()
        named = kept["taskIds"] if isinstance(kept["taskIds"], list) else []
        kept["taskIds"] = [
            self.seal(principal, server, one)
            for one in named
            if isinstance(one, str) and (server, one) in own
        ]


def is_foreign(message: Message, server: str, session: Session | None, link: Link) -> bool:
    """True for a notice about a task that is not of this session or, without sessions, of this subscription."""
    if not message.method.startswith("notifications/tasks"):
        return False
    task_id = (message.params or {}).get("taskId")
    own = session.own_tasks if session is not None else getattr(link, "own_tasks", ())
    return not isinstance(task_id, str) or (server, task_id) not in own
