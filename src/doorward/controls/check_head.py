"""Verb, media types, announced size and version of a request, and headers that must not disagree with its body."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from doorward.controls.control import Call, Control, Facts, Head, Refuse, Verdict
from doorward.protocol import codes, headers, legacy, modern

_JSON, _STREAM = "application/json", "text/event-stream"
_MIRRORED = ("mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "last-event-id")
_SESSION_BYTES = 1_024


class CheckHead(Control):
    """Refuse requests whose head no MCP client sends (MCP basic/transports, Streamable HTTP, both eras).

    ``body_bytes`` is the largest body that a request may announce.
    """

    slug: ClassVar[str] = "check-head"
    partly: ClassVar[tuple[str, ...]] = ("S3.2", "S12.1")
    floor: ClassVar[bool] = True

    def __init__(self, body_bytes: int) -> None:
        self._body_bytes = body_bytes

    def head(self, head: Head) -> Verdict:
        if head.server is None:
            return None  # no MCP path: its own handler knows which verbs it takes
        for name in head.repeated:
            if name in _MIRRORED or name.startswith("mcp-"):
                return _refuse("repeated-header", f"An Mcp header came more than once: {_known(name)}.", 400,
                               code=codes.HEADER_MISMATCH)  # fmt: skip
        version = head.fields.get("mcp-protocol-version")
        is_modern = version is not None and not legacy.is_supported(version)
        head.accepts_json, head.accepts_stream = accepted(head.fields.get("accept"))
        match head.verb:
            case "POST":
                return self._judge_post(head)
            case "GET" | "DELETE":
                return self._judge_session_verb(head, version, is_modern=is_modern)
        return _refuse(
            "verb",
            "This endpoint takes POST, GET and DELETE only.",
            405,
            headers=(("Allow", "POST, GET, DELETE"),),
        )

    def _judge_post(self, head: Head) -> Verdict:
        if not (head.accepts_json and head.accepts_stream):
            return _refuse("accept", f"The Accept header must list {_JSON} and {_STREAM}.", 406)
        if not is_json(head.fields.get("content-type")) or "content-type" in head.repeated:
            return _refuse("content-type", f"The Content-Type must be {_JSON}.", 415)
        if head.fields.get("content-encoding", "identity").lower() != "identity":
            return _refuse("content-encoding", "Compressed bodies are not served.", 415)
        if head.content_length is not None and head.content_length > self._body_bytes:
            return _refuse("body-too-large", f"The body may have {self._body_bytes} bytes at most.", 413)
        return self._judge_session(head)

    def _judge_session_verb(self, head: Head, version: str | None, *, is_modern: bool) -> Verdict:
        if version is not None and modern.is_supported(version):
            return _refuse("verb", "This protocol version uses POST only.", 405, headers=(("Allow", "POST"),))
        if is_modern:
            return _refuse("version", "Unsupported protocol version.", 400, code=codes.UNSUPPORTED_VERSION,
                           extra={"supported": [*codes.LEGACY_VERSIONS, *codes.MODERN_VERSIONS]})  # fmt: skip
        if head.verb == "GET" and not head.accepts_stream:
            return _refuse("accept", f"The Accept header must list {_STREAM}.", 406)
        if head.chunked or head.content_length:
            return _refuse("body", "This request has no body.", 400)
        return self._judge_session(head)

    def _judge_session(self, head: Head) -> Verdict:
        for name in ("mcp-session-id", "last-event-id"):
            value = head.fields.get(name)
            # 2025-11-25 basic/transports: visible ASCII only.
            if value is not None and not (
                value.isascii() and value.isprintable() and " " not in value and len(value) <= _SESSION_BYTES
            ):
                return _refuse("session-header", "A session header is not visible ASCII.", 400)
        return None

    def request(self, call: Call, seen: Facts) -> Verdict:
        fields, message = call.head.fields, call.sent  # before federated names were taken apart
        if call.era == "legacy":
            # Nothing of ours reads them in this era, but something before or behind us may.
            if "mcp-method" in fields or "mcp-name" in fields:
                reason = headers.check_routing(fields, message)
                return None if reason is None else _mismatch(reason)
            return None
        if message.kind != "request":
            reason = headers.check_routing(fields, message) if message.kind == "notification" else None
            return None if reason is None else _mismatch(reason)
        if not has_envelope(message.params):
            return None  # check-shape answers -32602, which goes before the comparison
        reason = headers.check_mirror(fields, message, call.schema)
        return None if reason is None else _mismatch(reason)


def has_envelope(params: dict[str, object] | None) -> bool:
    """True when the members of ``_meta`` that every modern request needs are there."""
    meta = params.get("_meta") if params is not None else None
    return isinstance(meta, dict) and modern.VERSION_KEY in meta and modern.CAPABILITIES_KEY in meta


@lru_cache(256)
def accepted(accept: str | None) -> tuple[bool, bool]:
    """Whether an Accept header takes JSON and an event stream (RFC 9110 §12.5.1: ranges, and q=0 excludes)."""
    if accept is None:
        return False, False
    weights: dict[str, bool] = {}
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights[media] = not any(_is_zero(parameter) for parameter in parameters)

    def takes(kind: str) -> bool:
        for media in (kind, kind.split("/", maxsplit=1)[0] + "/*", "*/*"):
            if media in weights:
                return weights[media]
        return False

    return takes(_JSON), takes(_STREAM)


def _is_zero(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip().rstrip("0") in ("", "0.", ".")


@lru_cache(256)
def is_json(content_type: str | None) -> bool:
    """True for application/json, in UTF-8 where a charset is named (RFC 8259 §8.1); nothing else, no suffix types."""
    if content_type is None:
        return False
    media, *parameters = (piece.strip().lower() for piece in content_type.split(";"))
    if media != _JSON:
        return False
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            return False
    return True


def _known(name: str) -> str:
    return name if name in _MIRRORED else "mcp-param"


def _mismatch(reason: str) -> Refuse:
    return _refuse("header-mismatch", reason, 400, code=codes.HEADER_MISMATCH)


def _refuse(
    reason: str,
    tell: str,
    status: int,
    *,
    code: int = codes.INVALID_REQUEST,
    headers: tuple[tuple[str, str], ...] = (),
    extra: dict[str, object] | None = None,
) -> Refuse:
    return Refuse(
        reason=reason,
        tell=tell,
        code=code,
        status=status,
        help="Mend the request and send it again.",
        headers=headers,
        extra=extra,
    )
