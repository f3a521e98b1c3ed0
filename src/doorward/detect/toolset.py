"""Inspect tools as a set: names that are taken or look alike, tools that steer others, and what all of them can do together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from doorward.detect import concepts as c
from doorward.detect.definition import scan_definition
from doorward.detect.finding import Finding, Report, judge, make
from doorward.detect.folding import fold, skeleton
from doorward.detect.leaves import leaves_of
from doorward.detect.marks import marks_of, split_name

_WORD = re.compile(r"[A-Za-z0-9_.-]{4,128}")
_STEER = c.CHANGE | c.IGNORE | c.DISABLE | c.BAD | c.BETTER
_NEAR_CHARS = 90
_SHOWN_NAMES = 3
_DISTINCT_CHARS = 12

# What a tool can do, read off its name and the first words of its description.
_ABILITIES: dict[str, re.Pattern[str]] = {
    "private": re.compile(
        r"\b(?:(?:read|get|list|search|query|open|download|export|fetch|find)\b.{0,30}\b(?:files?|mails?|emails?|inbox|messages?|notes?|documents?|databases?"
        r"|tables?|records?|contacts?|calendars?|secrets?|credentials?|repositor(?:y|ies)|drive|chats?|conversations?|accounts?|sql|rows)"
        r"|(?:execute|run)\b.{0,20}\b(?:quer(?:y|ies)|sql))\b"
    ),
    "foreign": re.compile(
        r"\b(?:http[ _-]?(?:get|request)\b|(?:fetch|browse|scrape|crawl|navigate|visit|download)\b.{0,30}\b(?:urls?|web|pages?|sites?|websites?|links?|internet|content)"
        r"|(?:web|internet|google|brave|news)[ _-]search|search\b.{0,20}\b(?:web|internet)|(?:read|get|list|search)\b.{0,20}\b(?:emails?|mails?|inbox|issues?|comments?"
        r"|tickets?|reviews?|messages?|posts?|pull requests?|tweets?))\b"
    ),
    "out": re.compile(
        r"\b(?:(?:send|post|publish|upload|forward|share|submit|push|tweet)\b.{0,30}\b(?:emails?|mails?|messages?|files?|requests?|data|posts?|comments?|webhooks?|urls?|sms"
        r"|notifications?|invites?|replies|reply|issues?|documents?|drafts?)|http[ _-]?(?:get|request|post)|send to\b|(?:create|add)\b.{0,12}\b(?:issues?|comments?|gists?|pull requests?|tickets?|posts?)"
        r"|(?:fetch|navigate|visit|browse)\b.{0,20}\burls?)\b"
    ),
}
_ABILITY_WORDS = {"private": "read private data", "foreign": "take in foreign text", "out": "send data out"}


class Listed(NamedTuple):
    """One tool of a set: which server lists it, and the definition as it stands there."""

    server: str
    definition: Any


class SetReport(NamedTuple):
    """A report for each tool, in order, and the findings about the set as a whole."""

    tools: list[Report]
    findings: list[Finding]


def scan_set(tools: Sequence[Listed]) -> SetReport:
    """Inspect each tool, and all of them together.

    What one tool does to another counts against that tool; what is only true of the set is in ``findings`` (``field`` leads to
    the first tool concerned, as ``/tools/3``) and changes no verdict.
    """
    own = [scan_definition("tool", tool.definition) for tool in tools]
    about_set: list[Finding] = []
    _compare_names(tools, own, about_set)
    _follow_references(tools, own, about_set)
    about_set += _combine_abilities(tools)
    return SetReport([judge(findings) for findings in own], about_set)


def _name(tool: Listed) -> str:
    name = tool.definition.get("name") if isinstance(tool.definition, dict) else None
    return name if isinstance(name, str) else ""


def _compare_names(tools: Sequence[Listed], own: list[list[Finding]], about_set: list[Finding]) -> None:
    """Equal names of two servers are common and only told; names that merely look equal are held against the odd one."""
    by_look: dict[str, list[int]] = defaultdict(list)
    for place, tool in enumerate(tools):
        if name := _name(tool):
            by_look[skeleton(name)].append(place)
    for places in by_look.values():
        names = {_name(tools[place]) for place in places}
        if len(places) > 1 and len(names) == 1 and len({tools[place].server for place in places}) > 1:
            about_set.append(
                make("name-taken", kind="tool", field=f"/tools/{places[1]}", evidence=next(iter(names)))
            )
        if len(names) < 2:
            continue
        flat = {re.sub(r"[-_. ]", "", name.lower()) for name in names}
        if len(flat) == 1:
            about_set.append(
                make(
                    "name-look-alike", kind="tool", field=f"/tools/{places[1]}", severity="low", evidence="|".join(sorted(names))
                )
            )  # fmt: skip
            continue
        oddest = max(places, key=lambda place: (_oddness(_name(tools[place])), place))
        severity: Literal["medium", "high"] = "medium" if _name(tools[oddest]).isascii() else "high"
        finding = make(
            "name-look-alike", kind="tool", field="/name", severity=severity, end=len(_name(tools[oddest])),
            evidence="|".join(sorted(names)), owner=_name(tools[oddest]),
        )  # fmt: skip
        own[oddest].append(finding)


def _oddness(name: str) -> tuple[int, int]:
    return sum(1 for char in name if not char.isascii()), sum(1 for char in name if char.isdigit())


def _follow_references(tools: Sequence[Listed], own: list[list[Finding]], about_set: list[Finding]) -> None:
    """Texts that name a tool of another server; with a word of steering close by that is held against the speaker."""
    owners: dict[str, set[str]] = defaultdict(set)
    for tool in tools:
        name = _name(tool)
        if "_" in name or "-" in name or len(name) >= _DISTINCT_CHARS or name != name.lower():
            owners[name].add(tool.server)
    if len({tool.server for tool in tools}) < 2:
        return
    for place, tool in enumerate(tools):
        mentioned = False
        for leaf in leaves_of(tool.definition):
            if leaf.is_name or leaf.pointer == "/name":
                continue
            for found in _WORD.finditer(leaf.text):
                servers = owners.get(found[0].strip(".-"))
                if not servers or tool.server in servers:
                    continue
                near = leaf.text[max(0, found.start() - _NEAR_CHARS) : found.end() + _NEAR_CHARS]
                if any(mark.mask & _STEER for mark in marks_of(fold(near).text)[0]):
                    own[place].append(
                        make(
                            "steers-other-tool", kind="tool", field=leaf.pointer, start=found.start(), end=found.end(),
                            evidence=found[0], owner=_name(tool),
                        )
                    )  # fmt: skip
                    mentioned = True
                elif not mentioned:
                    about_set.append(
                        make(
                            "names-other-tool",
                            kind="tool",
                            field=f"/tools/{place}",
                            evidence=found[0],
                            owner=_name(tool),
                        )
                    )
                    mentioned = True
                if mentioned:
                    break
            if mentioned:
                break


def abilities_of(definition: Any) -> set[str]:
    """Which sides of the lethal trifecta a tool has: ``private``, ``foreign``, ``out``."""
    if not isinstance(definition, dict):
        return set()
    name, description = definition.get("name"), definition.get("description")
    text = split_name(name).lower() if isinstance(name, str) else ""
    if isinstance(description, str):
        text += ". " + fold(description[:300]).text
    return {ability for ability, pattern in _ABILITIES.items() if pattern.search(text)}


def _combine_abilities(tools: Sequence[Listed]) -> list[Finding]:
    """The lethal trifecta over the set: private data, foreign text and a way out."""
    having: dict[str, list[int]] = defaultdict(list)
    for place, tool in enumerate(tools):
        for ability in abilities_of(tool.definition):
            having[ability].append(place)
    if len(having) < len(_ABILITIES):
        return []
    told = "; ".join(
        f"{_ABILITY_WORDS[ability]}: "
        + ", ".join(fold(_name(tools[place])).text[:64] for place in having[ability][:_SHOWN_NAMES])
        for ability in _ABILITIES
    )
    first = min(places[0] for places in having.values())
    return [
        make("lethal-trifecta", kind="tool", field=f"/tools/{first}", evidence="trifecta", told=f"({told})")
    ]
