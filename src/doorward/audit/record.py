"""What is put on record, and how it is read back: one JSON object an entry, without values, tokens or secrets.

A call has two records, its decision and its outcome; a refused call has one that is both. What comes from peers is
cut to a length, its control characters are spelled out, and it is always escaped by the JSON encoder. Digests are
keyed, so that nobody can guess short argument values from the log.
"""

from __future__ import annotations

import time as _time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import blake3
import msgspec

Kind = Literal["call", "auth", "admin", "server", "alert"]
ITEM_CHARS = 512
NAME_CHARS = 256
REASON_CHARS = 1_024
NOTES_COUNT = 16
_CACHE_COUNT = 4_096  # distinct callers and items whose constant part is kept; then the cache starts anew
_ONCE = frozenset({"initialize", "notifications/initialized"})  # a session says them once
_MILLISECONDS = [f".{number:03d}Z" for number in range(1000)]
_encode = msgspec.json.Encoder().encode
_blake3 = blake3.blake3


def digest(key: bytes, content: bytes) -> str:
    """Keyed BLAKE3 of ``content``; ``key`` is 32 bytes."""
    return "b3k:" + blake3.blake3(content, key=key).hexdigest()


def tidy(text: str, limit: int = NAME_CHARS) -> str:
    """Peer text for the record: at most ``limit`` characters, unprintable ones spelled out."""
    if len(text) > limit:
        text = text[: limit - 1] + "\u2026"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\u{{{ord(char):x}}}" for char in text)


def strip_uri(uri: str, key: bytes) -> str:
    """A resource URI without user information, query and fragment: a digest of the whole stands for them."""
    head, colon, rest = uri.partition(":")
    if not colon:
        bare = _before_query(uri)
    elif head.lower().endswith("data"):
        bare = "data:"
    elif rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        kept = _before_query(authority)
        if kept == authority:
            bare = f"{head}://{kept.rpartition('@')[2]}{slash}{_before_query(path)}"
        else:
            bare = f"{head}://{kept.rpartition('@')[2]}"
    else:
        bare = f"{head}:{_before_query(rest)}"
    if bare == uri:
        return uri
    return f"{tidy(bare, ITEM_CHARS - 36)}#{digest(key, uri.encode('utf-8', 'surrogatepass'))[:36]}"


def _before_query(text: str) -> str:
    return text.partition("?")[0].partition("#")[0]


def _json(value: object) -> str:
    return _encode(value).decode()


class Records:
    """Writes the records of one log. Constant parts are encoded once and kept; only what differs is spliced in."""

    def __init__(self, log: str, key: bytes) -> None:
        self.log = log
        self._key = key
        self._log_part = _json(log)
        self._parts: dict[tuple[str, ...], str] = {}
        self._second = -1
        self._second_text = ""

    def digest(self, content: bytes) -> str:
        """Keyed digest of a body."""
        return "b3k:" + _blake3(content, key=self._key).hexdigest()

    def _time(self, at: float) -> str:
        second = int(at)
        moment = self._second_text if second == self._second else self._new_second(second)
        return moment + _MILLISECONDS[int((at - second) * 1000)]

    def _new_second(self, second: int) -> str:
        self._second = second
        self._second_text = _time.strftime("%Y-%m-%dT%H:%M:%S", _time.gmtime(second))
        return self._second_text

    def _constant(self, key: tuple[str, ...]) -> str:
        era, cell, tenant, principal, client, server, method, item, session, address, pin, issuer = key
        if item and (method.startswith("resources/") or "://" in item):
            item = strip_uri(item, self._key)
        members = {
            "log": self.log,
            "kind": "call",
            "era": era,
            **({"cell": cell} if cell else {}),
            **({"issuer": tidy(issuer)} if issuer else {}),
            "tenant": tidy(tenant),
            "principal": tidy(principal),
            "client": tidy(client),
            "server": tidy(server),
            "method": tidy(method),
            "item": tidy(item, ITEM_CHARS),
            "session": self.digest(session.encode("utf-8", "surrogatepass"))[:36] if session else "",
            "address": tidy(address),
            "pin": tidy(pin),
        }
        part = _json(members)[1:-1]
        if method not in _ONCE:
            if len(self._parts) >= _CACHE_COUNT:
                self._parts.clear()
            self._parts[key] = part
        return part

    def decision(
        self,
        *,
        event: str,
        at: float,
        era: str,
        tenant: str,
        principal: str,
        client: str,
        server: str,
        method: str,
        item: str = "",
        session: str = "",
        address: str = "",
        pin: str = "",
        cell: str = "",
        issuer: str = "",
        request_digest: str = "",
        trace: str = "",
        verdict: str = "allow",
        control: str = "",
        reason: str = "",
        code: int = 0,
        http_status: int = 0,
        notes: Sequence[str] = (),
    ) -> bytes:
        """The record of what was decided about a call; one with a refusal or hold is also its outcome.

        ``event`` and ``request_digest`` are ours; ``at`` is Unix seconds.
        """
        key = (era, cell, tenant, principal, client, server, method, item, session, address, pin, issuer)
        constant = self._parts.get(key) or self._constant(key)
        rest = ""
        if verdict != "allow" or control or trace or notes or reason or code or http_status:
            rest = self._rest(verdict, control, reason, code, http_status, trace, notes)
        else:
            rest = ',"verdict":"allow"'
        return (
            f'{{"record":"decision","event":"{event}","time":"{self._time(at)}",{constant},'
            f'"request_digest":"{request_digest}"{rest}}}'
        ).encode()

    def allowed(self, key: tuple[str, ...], event: str, at: float, request_digest: str) -> bytes:
        """The record of a call that nothing was said against: what ``decision`` writes, for most calls.

        ``key``: era, cell, tenant, principal, client, server, method, item, session, address, pin and issuer.
        """
        constant = self._parts.get(key) or self._constant(key)
        second = int(at)
        moment = self._second_text if second == self._second else self._new_second(second)
        return (
            f'{{"record":"decision","event":"{event}","time":"{moment}{_MILLISECONDS[int((at - second) * 1000)]}",'
            f'{constant},"request_digest":"{request_digest}","verdict":"allow"}}'
        ).encode()

    def ended(
        self, event: str, at: float, outcome: str, upstream_requests: int, duration_us: int,
        response_digest: str, http_status: int, code: int,
    ) -> bytes:  # fmt: skip
        """The record of a call that ended without a refusal or note: what ``outcome`` writes, for most calls."""
        second = int(at)
        moment = self._second_text if second == self._second else self._new_second(second)
        return (
            f'{{"record":"outcome","event":"{event}","time":"{moment}{_MILLISECONDS[int((at - second) * 1000)]}",'
            f'"log":{self._log_part},"outcome":"{outcome}","upstream_requests":{upstream_requests},'
            f'"response_digest":"{response_digest}","duration_us":{duration_us},"http_status":{http_status},'
            f'"code":{code}}}'
        ).encode()

    def _rest(
        self,
        verdict: str,
        control: str,
        reason: str,
        code: int,
        http_status: int,
        trace: str,
        notes: Sequence[str],
    ) -> str:
        members: dict[str, Any] = {
            "verdict": verdict,
            "control": tidy(control),
            "reason": tidy(reason, REASON_CHARS),
        }
        if code:
            members["code"] = code
        if http_status:
            members["http_status"] = http_status
        if trace:
            members["trace"] = tidy(trace)
        if notes:
            members["notes"] = [tidy(note, NAME_CHARS) for note in notes[:NOTES_COUNT]]
        return "," + _json(members)[1:-1]

    def outcome(
        self,
        *,
        event: str,
        at: float,
        outcome: str,
        upstream_requests: int,
        duration_us: int,
        response_digest: str = "",
        http_status: int = 200,
        code: int = 0,
        verdict: str = "",
        control: str = "",
        reason: str = "",
        notes: Sequence[str] = (),
    ) -> bytes:
        """The record of how a call ended. ``verdict``, ``control`` and ``reason`` are for a reply that was refused;
        ``notes`` are those that came after the decision."""
        refused = ""
        if verdict or control or reason:
            told = {"verdict": verdict, "control": tidy(control), "reason": tidy(reason, REASON_CHARS)}
            refused = "," + _json(told)[1:-1]
        if notes:
            refused += ',"notes":' + _json([tidy(note, NAME_CHARS) for note in notes[:NOTES_COUNT]])
        return (
            f'{{"record":"outcome","event":"{event}","time":"{self._time(at)}","log":{self._log_part},'
            f'"outcome":"{outcome}","upstream_requests":{upstream_requests:d},"response_digest":"{response_digest}",'
            f'"duration_us":{duration_us:d},"http_status":{http_status:d},"code":{code:d}{refused}}}'
        ).encode()

    def happening(
        self,
        kind: Kind,
        *,
        event: str,
        at: float,
        method: str,
        verdict: str = "note",
        issuer: str = "",
        tenant: str = "",
        principal: str = "",
        client: str = "",
        server: str = "",
        item: str = "",
        control: str = "",
        reason: str = "",
        code: int = 0,
        http_status: int = 0,
        address: str = "",
        notes: Sequence[str] = (),
    ) -> bytes:
        """The record of something that is not a call: a sign-in, an act of an administrator, a server's state.

        ``method`` is the verb, such as ``token-refused``, ``settings-activated`` or ``server-started``.
        """
        if "://" in item or "?" in item or "#" in item:
            item = strip_uri(item, self._key)
        members = {
            "record": "happening",
            "event": event,
            "time": self._time(at),
            "log": self.log,
            "kind": kind,
            **({"issuer": tidy(issuer)} if issuer else {}),
            "tenant": tidy(tenant),
            "principal": tidy(principal),
            "client": tidy(client),
            "server": tidy(server),
            "method": tidy(method),
            "item": tidy(item, ITEM_CHARS),
            "verdict": verdict,
            "control": tidy(control),
            "reason": tidy(reason, REASON_CHARS),
            "code": code,
            "http_status": http_status,
            "address": tidy(address),
            "notes": [tidy(note, NAME_CHARS) for note in notes[:NOTES_COUNT]],
        }
        return _encode(members)


class Stored(msgspec.Struct, frozen=True):
    """An entry where it was found."""

    log: str
    seq: int
    entry: bytes
    in_flight: bool = False  # its writer lives and has written it since it started


_ROW: dict[str, Any] = {
    "event": "", "time": "", "log": "", "seq": [], "kind": "call", "era": None, "cell": "", "issuer": "", "tenant": "", "principal": "",
    "client": "", "server": "", "method": "", "item": "", "pin": "", "verdict": "", "control": "", "reason": "",
    "code": None, "http_status": None, "outcome": None, "upstream_requests": None, "request_digest": "",
    "response_digest": "", "duration_us": None, "trace": "", "session": "", "address": "", "notes": [],
}  # fmt: skip
_FROM_OUTCOME = ("outcome", "upstream_requests", "response_digest", "duration_us", "http_status", "code")
_REFUSED = ("verdict", "control", "reason")


def parse_record(stored: Stored) -> dict[str, Any]:
    """One entry as its JSON object with ``log`` and ``seq``; an unreadable one says so instead of raising."""
    try:
        record = msgspec.json.decode(stored.entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record = None
    if not isinstance(record, dict):
        record = {"record": "unreadable"}
    return {**record, "log": stored.log, "seq": stored.seq}


class Fold:
    """Joins decisions and outcomes, whichever comes first; feed one log at a time, newest entry first."""

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[str, Any]] = {}

    def add(self, stored: Stored) -> dict[str, Any] | None:
        """Take an entry; the row that it completes, or None for an outcome whose decision is still to come."""
        record = parse_record(stored)
        if record.get("record") == "outcome":
            self._outcomes[str(record.get("event"))] = record
            return None
        row = {name: record.get(name, default) for name, default in _ROW.items()}
        row["seq"] = [stored.seq, stored.seq]
        if record.get("record") != "decision":
            if row["kind"] == "call" and row["verdict"] == "refuse":
                row["outcome"], row["upstream_requests"] = "error", 0
            return row
        outcome = self._outcomes.pop(str(row["event"]), None)
        if outcome is not None:
            row["seq"] = [stored.seq, outcome["seq"]]
            row.update((name, outcome.get(name)) for name in _FROM_OUTCOME)
            if outcome.get("verdict"):
                row.update((name, outcome.get(name, "")) for name in _REFUSED)
            if isinstance(more := outcome.get("notes"), list) and more:
                row["notes"] = [*(row["notes"] if isinstance(row["notes"], list) else ()), *more]
                row["verdict"] = "note" if row["verdict"] == "allow" else row["verdict"]
        elif row["verdict"] in ("refuse", "hold"):
            row["outcome"], row["upstream_requests"] = "error", 0
        else:
            row["seq"] = [stored.seq, None]
            row["outcome"] = None if stored.in_flight else "unknown"
        return row


def fold(records: Iterable[Stored]) -> list[dict[str, Any]]:
    """Rows of the entries of one log, given and returned in the order of the log."""
    joiner = Fold()
    rows = [row for stored in reversed(list(records)) if (row := joiner.add(stored)) is not None]
    rows.reverse()
    return rows
