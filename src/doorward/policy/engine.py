"""May they? One question to Cedar, one decision with its reasons; denied unless something permits it.

A question is (principal, method, server, item). In Cedar's words: ``Principal::"..." in Role::"..."``, the
method as ``Action::"tools/call"``, and ``Tool``, ``Prompt``, ``Resource`` or ``Template``
``::"server/item"``, each in ``Server::"name"``. Methods that concern a server as a whole are asked about the
server itself, as actions in ``Action::"connect"``; so a policy file lets someone in with ``permit(principal,
action in Action::"connect", resource == Server::"time")``. Principals have ``tenant``, ``issuer``,
``subject``, ``client``, ``roles`` and ``scopes``; resources have ``server`` and, below a server, ``name`` and
``path`` ("server/item").

Where policy files are configured, only they decide; else the roles do (``roles.role_policy``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from doorward.base.errors import OperatorError
from doorward.policy.cedar_text import statements_of
from doorward.policy.roles import Role, role_policy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cedarpy import PolicySet

DECISIONS_COUNT = 65_536  # cached decisions of all principals together
CALLERS_COUNT = 8_192  # callers (one for each token) with a shortcut to their cached decisions
CACHED_CHARS = 512  # decisions on longer names are made anew each time
ITEM_CHARS = 8_192  # no item has a longer name; denied unasked
CONNECT = "connect"  # the action group of everything that concerns a server as a whole
_KINDS = {  # method -> entity type of its item
    "tools/call": "Tool",
    "prompts/get": "Prompt",
    "resources/read": "Resource",
    "resources/subscribe": "Resource",
    "resources/unsubscribe": "Resource",
    # no method of MCP: reading what a template stands for, asked when templates are listed
    "templates/read": "Template",
}
_ACTIONS = {"templates/read": "resources/read"}  # method -> action, where the names differ


class Decision(msgspec.Struct, frozen=True):
    """``ids`` name the policies that decided; ``reason`` is for the record."""

    allowed: bool
    reason: str
    ids: tuple[str, ...] = ()


class Caller(Protocol):
    """What a policy may read of who asks; ``identity.principal.Principal`` is one. Hashable by value."""

    @property
    def key(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def issuer(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def client(self) -> str: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def scopes(self) -> tuple[str, ...]: ...

    def attributes_digest(self) -> str:
        """Digest over all of the above: equal digest, equal answers."""


Question = tuple[str, str, str]  # method, server, item


class PolicyEngine:
    """The policy of one generation of settings; a new generation gets a new engine, and with it an empty
    cache.

    Fails: a policy that does not parse stops the start; a policy that errs while it is evaluated denies.
    """

    def __init__(
        self,
        roles: Mapping[str, Role],
        policy_texts: Mapping[str, str] | None = None,
        servers: Collection[str] = (),
    ) -> None:
        """``policy_texts`` maps file names to Cedar text; ``servers`` are the protected servers' names.

        Raises:
            OperatorError: ``policy-invalid`` with the file and line of the first policy that does not parse.
        """
        self._servers = frozenset(servers)
        self._texts = dict(policy_texts or {})
        self._roles = dict(roles)
        self._policies: PolicySet | None = None
        self._by_digest: dict[str, dict[Question, Decision]] = {}
        # the same inner tables, found without hashing text
        self._by_caller: dict[Caller, dict[Question, Decision]] = {}
        self._cached_count = 0
        if self._texts:
            self._policies = _parse_files(self._texts)

    def warm(self) -> PolicySet:
        """Load Cedar and the roles now (50 ms, once a process), rather than during somebody's first call."""
        import cedarpy

        if self._policies is None:
            texts = (role_policy(name, role) for name, role in self._roles.items())
            self._policies = cedarpy.PolicySet.from_str("".join(texts))
        return self._policies

    def may(self, caller: Caller, method: str, server: str, item: str = "") -> Decision:
        """Decide whether ``caller`` may use ``method`` on ``item`` of ``server``, if possible from cache."""
        known = self._by_caller.get(caller)
        if known is not None:
            decision = known.get((method, server, item))
            if decision is not None:
                return decision
        return self._decide_and_keep(caller, (method, server, item))

    def may_use_server(self, caller: Caller, server: str) -> bool:
        """True if ``caller`` may come to ``server`` at all; each message there is asked about again."""
        return self.may(caller, CONNECT, server).allowed

    def decide(self, caller: Caller, method: str, server: str, item: str = "") -> Decision:
        """Decide without the cache. Never raises for what a caller sent."""
        if server not in self._servers:
            return Decision(allowed=False, reason="no such server")
        kind = _KINDS.get(method)
        if kind is not None and not item:
            return Decision(allowed=False, reason="names no item")
        if len(item) > ITEM_CHARS or len(method) > ITEM_CHARS:
            return Decision(allowed=False, reason="name longer than the cap")
        return self._ask(caller, method, server, item if kind is not None else "", kind or "Server")

    def _ask(self, caller: Caller, method: str, server: str, item: str, kind: str) -> Decision:
        import cedarpy

        policies = self._policies or self.warm()
        action = {"type": "Action", "id": _ACTIONS.get(method, method)}
        resource = {"type": kind, "id": f"{server}/{item}" if item else server}
        principal = {"type": "Principal", "id": caller.key}
        request = {"principal": principal, "action": action, "resource": resource, "context": {}}
        try:
            entities = cedarpy.Entities.from_json_str(_entities(caller, method, server, item, kind))
            answer = cedarpy.is_authorized(request, policies, entities)
        except (ValueError, TypeError) as error:
            return Decision(
                allowed=False, reason=f"policy engine refused the question: {type(error).__name__}"
            )
        return _read_answer(answer)

    def _decide_and_keep(self, caller: Caller, question: Question) -> Decision:
        if self._cached_count >= DECISIONS_COUNT or len(self._by_caller) >= CALLERS_COUNT:
            # A caller who asks about names without end empties the cache: that costs time and grants nothing.
            self._by_caller.clear()
            self._by_digest.clear()
            self._cached_count = 0
        known = self._by_digest.setdefault(caller.attributes_digest(), {})
        self._by_caller[caller] = known
        decision = known.get(question)
        if decision is None:
            decision = self.decide(caller, *question)
            if sum(map(len, question)) <= CACHED_CHARS:
                known[question] = decision
                self._cached_count += 1
        return decision


def _entities(caller: Caller, method: str, server: str, item: str, kind: str) -> str:
    roles = [{"type": "Role", "id": role} for role in caller.roles]
    attributes: dict[str, Any] = {
        "tenant": caller.tenant,
        "issuer": caller.issuer,
        "subject": caller.subject,
        "client": caller.client,
        "roles": caller.roles,
        "scopes": caller.scopes,
    }
    server_uid = {"type": "Server", "id": server}
    found: list[dict[str, Any]] = [
        {"uid": {"type": "Principal", "id": caller.key}, "attrs": attributes, "parents": roles},
        {"uid": server_uid, "attrs": {"server": server}, "parents": []},
    ]
    if item:
        path = f"{server}/{item}"
        attributes = {"server": server, "name": item, "path": path}
        found.append({"uid": {"type": kind, "id": path}, "attrs": attributes, "parents": [server_uid]})
    elif method != CONNECT:
        group = {"type": "Action", "id": CONNECT}
        found.append({"uid": {"type": "Action", "id": method}, "attrs": {}, "parents": [group]})
    return msgspec.json.encode(found).decode()


def _read_answer(answer: Any) -> Decision:
    annotations = answer.diagnostics.id_annotations_by_reason
    ids = tuple(sorted(str(annotations.get(reason) or reason) for reason in answer.diagnostics.reasons))
    if answer.diagnostics.errors:
        # SECURITY: Cedar skips a policy that errs. A forbid that errs would thus let the call pass, so any
        # error denies.
        return Decision(allowed=False, reason="a policy could not be evaluated", ids=ids)
    if answer.allowed:
        return Decision(allowed=True, reason="permitted", ids=ids)
    return Decision(allowed=False, reason="forbidden" if ids else "nothing permits it", ids=ids)


def _parse_files(texts: Mapping[str, str]) -> PolicySet:
    import cedarpy

    whole: list[str] = []
    for file, text in texts.items():
        for line, statement in statements_of(text):
            try:
                cedarpy.PolicySet.from_str(statement)
            except ValueError as error:
                raise OperatorError(
                    "policy-invalid",
                    f"{file}, line {line}: the policy that begins there is not valid Cedar: {error}.",
                ) from error
        whole.append(text)
    return cedarpy.PolicySet.from_str("\n".join(whole))
