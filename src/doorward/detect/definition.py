"""Inspect one definition, every text of it: whether it is valid, and whether it only says what the thing is for."""

from __future__ import annotations

import re
from typing import Any, Literal

from doorward.detect import concepts as c
from doorward.detect.finding import Finding, Report, judge, make
from doorward.detect.folding import fold
from doorward.detect.leaves import Leaf, depth_of, leaves_of
from doorward.detect.marks import has, marks_of, split_name
from doorward.detect.smuggling import traces
from doorward.detect.text import find

DefinitionKind = Literal["tool", "prompt", "resource", "template", "instructions"]

_NAME = re.compile(r"[!-~]{1,128}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_OWN_HEADERS = frozenset(
    [
        "authorization",
        "cookie",
        "host",
        "origin",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "forwarded",
        "set-cookie",
        "te",
        "upgrade",
        "proxy-authorization",
        "mcp-session-id",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "x-forwarded-for",
        "x-forwarded-host",
    ]
)
# Names of schema members and of the protocol: they are no texts.
_KEYWORDS = frozenset(
    [
        "name",
        "title",
        "description",
        "inputSchema",
        "outputSchema",
        "annotations",
        "icons",
        "execution",
        "_meta",
        "type",
        "properties",
        "required",
        "items",
        "enum",
        "default",
        "examples",
        "const",
        "format",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "additionalProperties",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "$ref",
        "$defs",
        "$schema",
        "definitions",
        "src",
        "mimeType",
        "sizes",
        "readOnlyHint",
        "destructiveHint",
        "idempotentHint",
        "openWorldHint",
        "arguments",
        "uri",
        "uriTemplate",
        "size",
    ]
)
# Values of keywords that say nothing: most texts of a schema are one of these.
_PLAIN_VALUES = frozenset(
    [
        "string",
        "number",
        "integer",
        "boolean",
        "object",
        "array",
        "null",
        "date",
        "date-time",
        "uri",
        "email",
        "uuid",
        "http://json-schema.org/draft-07/schema#",
    ]
)
_CONTEXT_NAMES = re.compile(
    r"(?:system|developer|full|entire|whole|original)_?(?:prompt|context|message|messages|conversation|instructions)"
    r"|(?:conversation|chat|message|dialog|dialogue|session)_?(?:history|log|logs|transcript|context|messages)|chain_?of_?thought|context_?window"
    r"|(?:previous|prior|all|last)_?(?:messages|conversation|conversations|prompts|tool_?results|tools)"
)
_GRAVE_SECRETS = re.compile(
    r"\b(?:cvv2?|cvc|seed phrase|recovery phrase|mnemonic|private key|ssn|social security|card number|credit card|master password|pin code|id_rsa|wallet key)\b"
)
_LONG_NAME_CHARS = 24
_SCHEMA_DEPTH = 64
NO_SCHEMA = "it has no inputSchema."


def scan_definition(kind: DefinitionKind, value: Any, *, owner: str = "") -> list[Finding]:
    """All findings about one definition, or about a server's instructions (``kind`` instructions, ``value`` a text).

    Pure and deterministic; any JSON value may come. ``field`` of a finding is a JSON Pointer into ``value``, offsets count code
    points of the text (or member name) that it leads to. ``finding.judge`` makes a verdict of the findings.
    """
    name = value.get("name") if isinstance(value, dict) else None
    owner = owner or (name if isinstance(name, str) else "")
    findings = [
        make(
            "invalid-definition",
            kind="tool",
            field=field,
            evidence=fault,
            owner=owner,
            told=fault,
            severity="medium" if fault == NO_SCHEMA else None,
        )
        for field, fault in faults_of(kind, value)
    ]
    seen: set[str] = set()
    for leaf in leaves_of(value):
        if leaf.is_name:
            findings += _look_at_name(leaf, owner)
        elif leaf.text in _PLAIN_VALUES:
            continue
        elif leaf.text not in seen or len(leaf.text) < _LONG_NAME_CHARS:
            seen.add(leaf.text)
            findings += find(leaf.text, "tool", leaf.pointer, owner)
            findings += _look_at_special(leaf, owner)
            if leaf.pointer == "/name" and split_name(leaf.text).lower() != leaf.text.lower():
                findings += _said_by_name(leaf, owner)
    if (
        kind == "tool" and isinstance(value, dict) and isinstance(name, str)
    ):  # other names are titles for people
        findings += _look_at_own_name(name, owner)
    return findings + _look_at_parameters(value, owner)


def report_on(kind: DefinitionKind, value: Any) -> Report:
    """Findings, score and verdict for one definition."""
    return judge(scan_definition(kind, value))


def faults_of(kind: DefinitionKind, value: Any) -> list[tuple[str, str]]:
    """What makes a value no definition of its kind: pairs of JSON Pointer and sentence."""
    if kind == "instructions":
        return [] if isinstance(value, str) else [("", "instructions are no text.")]
    if not isinstance(value, dict):
        return [("", "it is no object.")]
    faults = []
    name = value.get("name")
    if not isinstance(name, str) or not name:
        faults.append(("/name", "it has no name."))
    kinds: tuple[tuple[str, type, str], ...] = (
        ("title", str, "no text"),
        ("description", str, "no text"),
        ("annotations", dict, "no object"),
        ("_meta", dict, "no object"),
    )
    faults += [
        (f"/{member}", f"its {member} is {what}.")
        for member, wanted, what in kinds
        if member in value and not isinstance(value[member], wanted)
    ]
    if kind == "tool":
        faults += _schema_faults(value)
    needed = {"resource": "uri", "template": "uriTemplate"}.get(kind)
    if needed is not None and not isinstance(value.get(needed), str):
        faults.append((f"/{needed}", f"it has no {needed}."))
    return faults


def _schema_faults(value: dict[str, Any]) -> list[tuple[str, str]]:
    faults = [] if "inputSchema" in value else [("/inputSchema", NO_SCHEMA)]
    for member in ("inputSchema", "outputSchema"):
        if member not in value:
            continue
        schema = value[member]
        if not isinstance(schema, dict):
            faults.append((f"/{member}", f"its {member} is no object."))
        elif member == "inputSchema" and schema.get("type") != "object":
            faults.append((f"/{member}/type", "its inputSchema is not of type object."))
        elif not isinstance(schema.get("properties", {}), dict):
            faults.append((f"/{member}/properties", f"the properties of its {member} are no object."))
        elif depth_of(schema, _SCHEMA_DEPTH + 1) > _SCHEMA_DEPTH:
            faults.append((f"/{member}", f"its {member} is nested deeper than {_SCHEMA_DEPTH} levels."))
    return faults


def _look_at_own_name(name: str, owner: str) -> list[Finding]:
    if _PLAIN_NAME.fullmatch(name):
        return []
    severity: Literal["low", "high"] = "low" if _NAME.fullmatch(name) else "high"
    return [
        make(
            "odd-name",
            kind="tool",
            field="/name",
            end=len(name),
            severity=severity,
            evidence=name,
            owner=owner,
        )
    ]


def _look_at_name(leaf: Leaf, owner: str) -> list[Finding]:
    """A member's name: what is hidden in it, and what it says where it is more than a word."""
    if leaf.text in _KEYWORDS:
        return []
    if not leaf.text and not leaf.pointer.endswith("/"):
        return [
            make(
                "over-long", kind="tool", field=leaf.pointer, severity="high", evidence="leaves", owner=owner
            )
        ]
    if len(leaf.text) < _LONG_NAME_CHARS and leaf.text.isascii():
        return []
    if " " not in leaf.text and len(leaf.text) < 2 * _LONG_NAME_CHARS:
        found = [
            make(
                one.rule,
                kind="tool",
                field=leaf.pointer,
                start=one.start,
                end=one.end,
                evidence=one.says,
                owner=owner,
            )
            for one in traces(leaf.text)
        ]
        if found:
            return found
    return _said_by_name(leaf, owner)


def _said_by_name(leaf: Leaf, owner: str) -> list[Finding]:
    """What a name says when its words are put apart; offsets there are not those of the name, so the whole of it is meant."""
    return [
        make(
            one.rule, kind="tool", field=leaf.pointer, end=len(leaf.text), severity=one.severity, evidence=leaf.text, owner=owner
        )
        for one in find(split_name(leaf.text), "tool", leaf.pointer, owner)
    ]  # fmt: skip


def _look_at_special(leaf: Leaf, owner: str) -> list[Finding]:
    member = leaf.pointer.rpartition("/")[2]
    if member == "$ref" and "://" in leaf.text[:40]:
        return [make("external-reference", kind="tool", field=leaf.pointer, end=len(leaf.text), owner=owner)]
    if member == "x-mcp-header":
        if not _HEADER.fullmatch(leaf.text) or leaf.text.lower() in _OWN_HEADERS:
            return [make("odd-header", kind="tool", field=leaf.pointer, end=len(leaf.text), owner=owner)]
    return []


def _look_at_parameters(value: Any, owner: str) -> list[Finding]:
    """What the parameters ask for: names and descriptions of every property of the input schema, however deep."""
    if not isinstance(value, dict):
        return []
    schema = value.get("inputSchema")
    pending: list[tuple[str, Any]] = [("/inputSchema", schema)]
    findings: list[Finding] = []
    while pending and len(findings) < 32:
        pointer, one = pending.pop()
        if isinstance(one, list):
            pending += [(f"{pointer}/{place}", inner) for place, inner in enumerate(one)]
        if not isinstance(one, dict):
            continue
        for name, inner in one.items():
            place = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            if isinstance(inner, dict | list):
                pending.append((place, inner))
            if pointer.endswith(("/properties", "/patternProperties")):
                findings += _judge_parameter(place, name, inner, owner)
    return findings


def _judge_parameter(place: str, name: str, schema: Any, owner: str) -> list[Finding]:
    description = schema.get("description") if isinstance(schema, dict) else None
    said = description if isinstance(description, str) else ""
    words = split_name(name)
    plain = re.sub(r"[^a-z]+", "_", words.lower()).strip("_")
    marks = marks_of(fold(said[:4_096]).text)[0]
    found = []
    if _CONTEXT_NAMES.fullmatch(plain):
        is_sigil = name.startswith("_") or name.endswith("_")
        urged = has(marks, c.EVERY) or (has(marks, c.MUST) and has(marks, c.INCLUDE))
        severity: Literal["low", "high"] = "high" if is_sigil or urged else "low"
        found.append(
            make("asks-for-context", kind="tool", field=place, severity=severity, evidence=name, owner=owner)
        )
    own = marks_of(fold(words).text)[0]
    if has(own, c.READ | c.CONTENT) and has(own, c.SECRET):
        found.append(
            make("asks-for-secret", kind="tool", field=place, severity="high", evidence=name, owner=owner)
        )
        return found
    text = fold(f"{words} . {said[:200]}").text
    asked = has(marks, c.INCLUDE | c.ENTER | c.READ) and not has(
        marks, c.NOT
    )  # "do not include" asks for the opposite
    wants_it = asked and has(marks, c.SECRET) and has(marks, c.USER)
    if has(own, c.SECRET) or wants_it or _GRAVE_SECRETS.search(text):
        grave: Literal["low", "medium"] = "medium" if wants_it or _GRAVE_SECRETS.search(text) else "low"
        found.append(
            make("asks-for-secret", kind="tool", field=place, severity=grave, evidence=name, owner=owner)
        )
    return found
