"""What a control is, what it may see and what it may answer.

A control is one small class in one file. It overrides only the hooks that it needs; ``None`` means no objection.
Refusing is returned, never raised: a hook that raises is a bug, and the pipeline refuses the call.
Hooks are plain functions; one that truly has to wait returns an awaitable of its verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Literal

import msgspec

from doorward.identity.principal import Principal
from doorward.protocol.http_head import RequestHead
from doorward.protocol.message import Era, Message

Mode = Literal["enforce", "report", "off"]


class Note(msgspec.Struct, frozen=True):
    """Nothing is stopped; the reason goes on record."""

    reason: str


class Rewrite(msgspec.Struct, frozen=True):
    """Go on with another message value; shape, policy and argument controls see it again."""

    reason: str
    value: dict[str, Any]


class Hold(msgspec.Struct, frozen=True):
    """Wait for a person: consent, step-up or approval."""

    reason: str
    tell: str


class Refuse(msgspec.Struct, frozen=True):
    """Stop here. ``reason`` goes to the record; ``tell`` and ``help`` go to the client and hold no peer text."""

    reason: str
    tell: str
    code: int = -31001  # JSON-RPC error code; see protocol/codes.py
    status: int = 200  # HTTP status
    help: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] | None = None  # further members of error.data that the specification wants
    alert: tuple[str, str] | None = None  # rule and item of an alert; never told to the client


Verdict = Note | Rewrite | Hold | Refuse | None
Answer = Verdict | Awaitable[Verdict]


class ProofMark(msgspec.Struct, frozen=True):
    """What makes a proof of possession the one that it is, until when it could be used (RFC 9449)."""

    key: str  # the thumbprint of the key that made it
    digest: str
    expires_at: float  # Unix seconds
    used: Refuse  # the answer when another request has had it
    unknown: Refuse  # the answer when that cannot be known


class Certificate(msgspec.Struct, frozen=True):
    """A client's certificate, as its connection has proven it (RFC 8705)."""

    thumbprint: str  # base64url of the SHA-256 of its DER: x5t#S256
    expires_at: float  # Unix seconds


class Head(RequestHead):
    """A parsed request head and what the front concluded from it. Made once per distinct head and shared by equal ones:
    those of connections with the same certificate, or with none.

    ``fields`` maps lower-case names to values; a name that came more than once is in ``repeated`` and its values
    are joined with ", " (so nothing may be decided on it without looking there).
    """

    __slots__ = (
        "accepts_json",
        "accepts_stream",
        "address",
        "answer_fields",
        "certificate",
        "expires_at",
        "generation",
        "is_web",
        "notes",
        "params_fields",
        "pending",
        "principal",
        "proof",
        "refusal",
        "resource",
        "server",
    )

    def __init__(
        self, *, verb: str, path: str, query: str, fields: dict[str, str], repeated: frozenset[str]
    ) -> None:
        # All of it here, without a call of the base: a head that nobody repeats is made for each request.
        self.verb = verb
        self.path = path
        self.query = query
        self.fields = fields
        self.repeated = repeated
        self.minor = 1
        self.keep_alive = True
        self.content_length = None
        self.chunked = False
        self.expects_continue = False
        self.server: str | None = (
            None  # protected server's name; "" is the federated endpoint; None is no MCP path
        )
        self.is_web = False  # a page of ours below /oauth or /connect
        # Its Mcp-Param-* fields, which are passed on where no schema declares them (SF-44); None: not looked for yet.
        self.params_fields: tuple[tuple[str, str], ...] | None = None
        self.resource = ""  # the OAuth resource of this endpoint, from configuration only
        self.principal: Principal | None = None  # set by check-token
        self.address = ""  # where the request comes from that is being judged now
        # Set by check-token where somebody must be asked first; calls back when the head can be judged again.
        self.pending: Callable[[Callable[[], None]], None] | None = None
        self.accepts_json = False
        self.accepts_stream = False
        self.certificate: Certificate | None = None  # of the connections that share this head
        self.proof: ProofMark | None = None  # set by bind-token: may serve one request only
        self.answer_fields = b""  # encoded header lines that every answer to these bytes carries
        # Kept by the front on behalf of all requests with these bytes:
        self.generation = -1  # the snapshot under which the verdict below was given; -1 is none yet
        self.refusal: Any = None
        self.notes: tuple[str, ...] = ()  # what controls in report mode would have refused
        self.expires_at = 0.0  # Unix seconds after which the verdict must be given anew; 0 is never

    def with_length(self, digits: str) -> Head:
        """The same head with another Content-Length, not judged yet; ``digits`` is a plain decimal number."""
        fields = {**self.fields, "content-length": digits}
        head = Head(verb=self.verb, path=self.path, query=self.query, fields=fields, repeated=self.repeated)
        head.minor = self.minor
        head.keep_alive = self.keep_alive
        head.expects_continue = self.expects_continue
        head.content_length = int(digits)
        head.certificate = self.certificate
        return head


class Call:
    """One message from a client on its way to a server: what controls see."""

    __slots__ = (
        "address",
        "capabilities",
        "era",
        "event",
        "head",
        "item",
        "listed",
        "message",
        "notes",
        "principal",
        "read_only",
        "schema",
        "sent",
        "server",
        "session",
        "version",
    )

    def __init__(
        self, *, head: Head, principal: Principal, server: str, era: Era, message: Message, event: str
    ) -> None:
        self.head = head
        self.principal = principal
        self.server = server  # after federation: always a protected server's name, or "" for a fan-out
        self.era = era
        self.message = message
        self.sent = message  # as the client sent it: with federated names, which its Mcp-Name header repeats
        self.event = event  # the 26-character id of the record
        self.address = ""  # peer address without port
        self.item = ""  # tool or prompt name, resource URI, or ""
        self.session = ""  # the gateway's session id (legacy era) or ""
        self.version = ""  # MCP revision in force
        self.capabilities: dict[
            str, Any
        ] = {}  # what this client declared (initialize, or _meta of the request)
        self.schema: dict[str, Any] | None = None  # the tool's inputSchema as last listed for this server
        self.listed = False  # the gateway has listed the server's tools for this very call
        self.read_only = False  # by the readOnlyHint last listed
        self.notes: list[str] = list(head.notes)


class Claim(msgspec.Struct, frozen=True):
    """What a caller presents as given out earlier, and why it is not plainly theirs."""

    kind: Literal["session", "state"]
    fault: str  # for the record, never for the caller


Facts = dict[str, Any]  # what earlier controls of the same exchange leave for later ones


class Control:
    """Base of every control."""

    slug: ClassVar[str]  # the file name with hyphens
    covers: ClassVar[tuple[str, ...]] = ()  # catalogue ids that this control fulfils
    partly: ClassVar[tuple[str, ...]] = ()  # catalogue ids to which it contributes
    floor: ClassVar[bool] = False  # may be off in profile lab only
    head_is_pure: ClassVar[bool] = True  # the head verdict may be memoised for equal bytes and generation

    def head(self, head: Head) -> Answer:
        """Judge a request head before its body is read."""

    def request(self, call: Call, seen: Facts) -> Answer:
        """Judge a message from a client."""

    def listing(self, call: Call, items: list[dict[str, Any]], key: str) -> Answer:
        """Judge and, by editing ``items`` in place, filter a list result; ``key`` is tools, prompts, ..."""

    def reply(self, call: Call, reply: Message) -> Answer:
        """Judge the final response of a server."""

    def notice(self, notice: Message, server: str, capabilities: dict[str, Any]) -> Answer:
        """Judge a notification or request that ``server`` sends to a client which declared ``capabilities``."""

    def claim(self, caller: Principal, claim: Claim) -> Answer:
        """Judge a claim that does not hold; called for no other, so that ordinary traffic does not pay for it."""

    def settled(self, call: Call, outcome: str) -> None:
        """Learn from an exchange that is over; nothing can be changed here."""


class Posture:
    """What protects without a place on the request path (a cage, a ledger): a probe instead of hooks."""

    slug: ClassVar[str]
    covers: ClassVar[tuple[str, ...]] = ()
    partly: ClassVar[tuple[str, ...]] = ()
    floor: ClassVar[bool] = False

    def probe(self) -> tuple[Literal["ok", "failing", "unknown"], str]:
        """Tell from the running system whether it holds, and in words why."""
        return "unknown", "not probed"
