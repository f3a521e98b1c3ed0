"""Each message is allowed by policy, and lists show only what the caller may use.

An item that the caller may not use answers as one that does not exist (MCP server/tools, error handling):
``unknown_item`` is that answer, and whoever finds out that an item truly does not exist gives the very same
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from doorward.controls.control import Answer, Call, Control, Facts, Head, Refuse
from doorward.protocol import codes

if TYPE_CHECKING:
    from doorward.identity.principal import Principal
    from doorward.policy.engine import Decision
    from doorward.protocol.message import Message

UNKNOWN_TOOL = "Unknown tool. List the tools to see what this caller may use."
UNKNOWN_PROMPT = "Unknown prompt. List the prompts to see what this caller may use."
UNKNOWN_RESOURCE = "Resource not found. List the resources to see what this caller may use."
_PROMPTS_COUNT = 4_096  # remembered of one server
_URI_CHARS = 2_048  # of a URI that is said back
_RESOURCE_NOT_FOUND = -32002  # 2025 era only; the 2026 era has -32602 in its place
_UNKNOWN = {
    "tools/call": UNKNOWN_TOOL,
    "prompts/get": UNKNOWN_PROMPT,
    "resources/read": UNKNOWN_RESOURCE,
    "resources/subscribe": UNKNOWN_RESOURCE,
    "resources/unsubscribe": UNKNOWN_RESOURCE,
}
_LISTED = {  # key of a list result -> (method that uses an item, member that names it)
    "tools": ("tools/call", "name"),
    "prompts": ("prompts/get", "name"),
    "resources": ("resources/read", "uri"),
    "resourceTemplates": ("templates/read", "uriTemplate"),
}
_REFERENCES = {"ref/prompt": ("prompts/get", "name"), "ref/resource": ("templates/read", "uri")}


class Policy(Protocol):
    """What this control asks; ``policy.engine.PolicyEngine`` answers it."""

    def may(self, caller: Principal, method: str, server: str, item: str = "") -> Decision: ...

    def may_use_server(self, caller: Principal, server: str) -> bool: ...


def unknown_item(call: Call, reason: str) -> Refuse:
    """The answer to a call of an item that does not exist, or not for this caller; ``reason`` goes on record
    only.
    """
    if call.message.method == "completion/complete":
        reference = (call.message.params or {}).get("ref")
        is_resource = isinstance(reference, dict) and reference.get("type") == "ref/resource"
        return _hidden(UNKNOWN_RESOURCE if is_resource else UNKNOWN_PROMPT, reason)
    tell = _UNKNOWN.get(call.message.method, UNKNOWN_TOOL)
    if tell is not UNKNOWN_RESOURCE:
        return Refuse(reason=reason, tell=tell, code=codes.INVALID_PARAMS)
    # The error says the URI back as this caller wrote it (MCP server/resources, error handling).
    uri = (call.sent.params or {}).get("uri")
    extra = {"uri": uri} if isinstance(uri, str) and len(uri) <= _URI_CHARS else None
    code = _RESOURCE_NOT_FOUND if call.era == "legacy" else codes.INVALID_PARAMS
    return Refuse(reason=reason, tell=tell, code=code, extra=extra)


class AskPolicy(Control):
    """Ask the policy engine about every message, whatever its method, and about every listed item.

    Fails: what the engine cannot decide, it denies.
    """

    slug: ClassVar[str] = "ask-policy"
    partly: ClassVar[tuple[str, ...]] = ("S1.1",)

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._prompts: dict[str, set[str]] = {}  # server -> prompts that some list has named

    def head(self, head: Head) -> Answer:
        """Streams (GET) and the end of sessions (DELETE) carry no message to ask about: the server decides
        them.
        """
        if head.verb == "POST" or not head.server or head.principal is None:
            return None
        if self._policy.may_use_server(head.principal, head.server):
            return None
        return _no_server(status=403)

    def request(self, call: Call, seen: Facts) -> Answer:
        if not call.server:
            # a fan-out: each server's part is asked about, and filtered, under that server's name
            return None
        method = call.message.method
        if method in _UNKNOWN:
            decision = self._policy.may(call.principal, method, call.server, call.item)
            if decision.allowed:
                return None
            if call.head.server == "" or self._policy.may_use_server(call.principal, call.server):
                return unknown_item(call, _why(decision))
            return _no_server()
        if call.message.kind == "response" or call.message.kind == "notification":
            return None if self._policy.may_use_server(call.principal, call.server) else _no_server()
        decision = self._policy.may(call.principal, method, call.server)
        if not decision.allowed:
            if method == "completion/complete" and call.head.server == "":
                return unknown_item(call, _why(decision))
            return (
                _no_server() if not self._policy.may_use_server(call.principal, call.server) else _no_method()
            )
        if method == "subscriptions/listen":
            return self._subscription(call)
        return self._completion(call) if method == "completion/complete" else None

    def _subscription(self, call: Call) -> Answer:
        """Hearing of a hidden resource's changes would tell that it exists, and more."""
        wanted = (call.message.params or {}).get("notifications")
        uris = wanted.get("resourceSubscriptions") if isinstance(wanted, dict) else None
        for uri in uris if isinstance(uris, list) else ():
            allowed = isinstance(uri, str) and self._policy.may(
                call.principal, "resources/subscribe", call.server, uri
            ).allowed  # fmt: skip
            if not allowed:
                return _hidden(UNKNOWN_RESOURCE, "a subscription to an item that is not allowed")
        return None

    def _completion(self, call: Call) -> Answer:
        """Completing the arguments of a hidden prompt or template would tell that it exists."""
        reference = (call.message.params or {}).get("ref")
        kind = reference.get("type") if isinstance(reference, dict) else None
        if not isinstance(reference, dict) or not isinstance(kind, str) or kind not in _REFERENCES:
            # A server that overlooks the type would complete what policy was never asked about.
            return unknown_item(call, "completion of something that is no prompt and no resource")
        method, member = _REFERENCES[kind]
        item = reference.get(member)
        if isinstance(item, str) and "{" not in item and method == "templates/read":
            method = "resources/read"  # no template: the resource itself
        if isinstance(item, str) and self._policy.may(call.principal, method, call.server, item).allowed:
            return None
        return unknown_item(call, "completion of an item that is not allowed")

    def listing(self, call: Call, items: list[dict[str, Any]], key: str) -> Answer:
        if key not in _LISTED:
            return Refuse(reason="a list of an unknown kind", tell="This kind of list is not served.")
        method, member = _LISTED[key]
        items[:] = [item for item in items if self._may_see(call, method, item.get(member))]
        if key == "prompts":
            known = self._prompts.setdefault(call.server, set())
            if len(known) > _PROMPTS_COUNT:
                known.clear()
            known.update(item["name"] for item in items[:_PROMPTS_COUNT])
        return None

    def reply(self, call: Call, reply: Message) -> Answer:
        """Let a server's "there is no such item" read like ours, so that what is hidden answers as what is not there."""
        error = reply.value.get("error")
        if error is None:
            return None
        if not isinstance(error, dict) or error.get("code") not in (
            codes.INVALID_PARAMS,
            _RESOURCE_NOT_FOUND,
        ):
            return None
        match call.message.method:
            case "prompts/get" if call.item not in self._prompts.get(call.server, ()):
                return unknown_item(call, "the server does not have it")
            case "resources/read" | "resources/subscribe" | "resources/unsubscribe":
                return unknown_item(call, "the server does not have it")
            case "completion/complete" if call.item not in self._prompts.get(call.server, ()):
                return unknown_item(call, "the server does not have it")
        return None

    def _may_see(self, call: Call, method: str, name: object) -> bool:
        if not isinstance(name, str):
            return False
        server = call.server
        if not server:  # a merged list: names carry their server, which never holds an underscore
            server, _, name = name.partition("__")
        return self._policy.may(call.principal, method, server, name).allowed


def _hidden(tell: str, reason: str) -> Refuse:
    return Refuse(reason=reason, tell=tell, code=codes.INVALID_PARAMS)


def _why(decision: Decision) -> str:
    return decision.reason + "".join(f"; {name}" for name in decision.ids)


def _no_server(status: int = 200) -> Refuse:
    return Refuse(
        reason="no access to the server",
        tell="No role of this caller includes this MCP server.",
        code=codes.POLICY,
        status=status,
        help="Ask the operator for a role that names this server, or use a server that your roles name.",
    )


def _no_method() -> Refuse:
    return Refuse(
        reason="method not permitted",
        tell="Policy does not permit this method here.",
        code=codes.POLICY,
        help="Ask the operator which policy decides this.",
    )
