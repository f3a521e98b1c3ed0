"""What servers may ask of clients: sampling, elicitation and roots, each only where settings and client both
allow it.

2025 era: requests from server to client (client/sampling, client/elicitation, client/roots) and error -32042.
2026 era: results with ``resultType: "input_required"`` (basic/patterns/mrtr), and the state of a task that waits for input
(extension io.modelcontextprotocol/tasks), which comes in results and notifications.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from doorward.controls.control import Answer, Call, Control, Refuse

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from doorward.protocol.message import Message

KINDS = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
_FREE_METHODS = ("ping",)
_ASKING_METHODS = ("tools/call", "prompts/get", "resources/read")  # alone may answer input_required
_URL_ELICITATION = -32042  # 2025-11-25: the caller has to open a URL first
_INPUT_REQUESTS_COUNT = 32  # in one result; a person answers them
_TELL = "The protected server asked for something that it may not ask of this client."
_HELP = "An operator can allow it with allow_requests for this server; the client must support it as well."


def allowed_capabilities(declared: Mapping[str, Any], allow_requests: Collection[str]) -> dict[str, Any]:
    """What a server gets to hear of a client's capabilities: nothing that it could not use here anyway."""
    if not declared:
        return {}
    kept = {
        name: value
        for name, value in declared.items()
        if name not in KINDS.values() or name in allow_requests
    }
    tasks = kept.get("tasks")
    requests = tasks.get("requests") if isinstance(tasks, dict) else None
    if isinstance(tasks, dict) and isinstance(requests, dict):
        left = {
            name: value
            for name, value in requests.items()
            if name not in KINDS.values() or name in allow_requests
        }
        kept["tasks"] = {**tasks, "requests": left}
    return kept


class GateServerRequests(Control):
    """Refuse what a server asks of a client unless ``allow_requests`` names it and the client declared it.

    Fails: a request that is not understood is refused.
    """

    slug: ClassVar[str] = "gate-server-requests"

    def __init__(self, allow_requests: Mapping[str, Collection[str]]) -> None:
        """``allow_requests`` maps each server's name to what it may ask: sampling, elicitation, roots."""
        self._allow = {server: frozenset(kinds) for server, kinds in allow_requests.items()}

    def notice(self, notice: Message, server: str, capabilities: dict[str, Any]) -> Answer:
        if notice.kind == "notification":
            if notice.method.startswith("notifications/tasks"):
                return self._judge_task(notice.params or {}, server, capabilities)
            if notice.method != "notifications/elicitation/complete":
                return None
            return _refuse(self._fault("elicitation/create", {"mode": "url"}, server, capabilities))
        if notice.kind == "response" or notice.method in _FREE_METHODS:
            return None
        if notice.method.startswith("tasks/"):
            return None if isinstance(capabilities.get("tasks"), dict) else _refuse("tasks not declared")
        return _refuse(self._fault(notice.method, notice.params, server, capabilities))

    def reply(self, call: Call, reply: Message) -> Answer:
        value = reply.value
        if "error" in value:
            return self._judge_error(call, value["error"])
        result = value.get("result")
        if not isinstance(result, dict) or call.era == "legacy":
            return None  # to the older era these are no more than unknown members
        kind = result.get("resultType")
        if kind != "input_required":
            is_task = kind == "task" or call.message.method.startswith("tasks/")
            return self._judge_task(result, call.server, call.capabilities) if is_task else None
        if call.message.method not in _ASKING_METHODS:
            return _refuse("input_required in answer to a method that has none")
        return _refuse(self._fault_of_all(result.get("inputRequests", {}), call.server, call.capabilities))

    def _judge_task(self, task: dict[str, Any], server: str, capabilities: Mapping[str, Any]) -> Answer:
        """A task that waits for input asks as much as a call does."""
        return _refuse(self._fault_of_all(task.get("inputRequests", {}), server, capabilities))

    def _fault_of_all(self, requests: object, server: str, capabilities: Mapping[str, Any]) -> str:
        if not isinstance(requests, dict) or len(requests) > _INPUT_REQUESTS_COUNT:
            return "inputRequests is not a small object"
        for request in requests.values():
            if not isinstance(request, dict) or not isinstance(request.get("method"), str):
                return "an input request without a method"
            fault = self._fault(request["method"], request.get("params"), server, capabilities)
            if fault:
                return fault
        return ""

    def _judge_error(self, call: Call, error: object) -> Answer:
        if not isinstance(error, dict) or error.get("code") != _URL_ELICITATION:
            return None
        return _refuse(self._fault("elicitation/create", {"mode": "url"}, call.server, call.capabilities))

    def _fault(self, method: str, params: object, server: str, capabilities: Mapping[str, Any]) -> str:
        """Why the request may not pass, or ""."""
        kind = KINDS.get(method)
        if kind is None:
            return "a request that servers may not send"
        if kind not in self._allow.get(server, frozenset()):
            return f"{kind} not allowed for this server"
        return question_fault(method, params, capabilities)


def question_fault(method: str, params: object, capabilities: Mapping[str, Any]) -> str:
    """Why a client that declared ``capabilities`` may not be asked this, or "" (MR-04)."""
    kind = KINDS.get(method)
    declared = capabilities.get(kind) if kind is not None else None
    if not isinstance(declared, dict):
        return f"{kind or 'this'} not declared by the client"
    members = params if isinstance(params, dict) else {}
    if kind == "elicitation":
        return _elicitation_fault(members.get("mode", "form"), declared)
    uses_tools = "tools" in members or "toolChoice" in members
    if kind == "sampling" and uses_tools and not isinstance(declared.get("tools"), dict):
        return "sampling with tools not declared by the client"
    return ""


def _elicitation_fault(mode: object, declared: Mapping[str, Any]) -> str:
    if mode not in ("form", "url"):
        return "elicitation in an unknown mode"
    # An empty declaration means form mode, as before modes existed (client/elicitation, capabilities).
    if mode in declared or (mode == "form" and "url" not in declared):
        return ""
    return f"elicitation in {mode} mode not declared by the client"


def _refuse(fault: str) -> Refuse | None:
    return Refuse(reason=fault, tell=_TELL, help=_HELP) if fault else None
