"""Roles as the settings name them, and the Cedar policies that they stand for.

A role's ``servers`` grants those servers with their prompts, resources and templates; its ``tools`` grants
tools on these servers. Both hold globs in which ``*`` stands for any text and every other character for
itself. A tool glob with a slash is matched against "server/tool", one without against the tool's name alone.
"""

from __future__ import annotations

import msgspec


class Role(msgspec.Struct, frozen=True):
    """One ``[roles.NAME]`` table. Empty lists grant nothing."""

    servers: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()


EVERYTHING = Role(servers=("*",), tools=("*",))  # the built-in role `user` of profiles local and lab


def cedar_string(text: str) -> str:
    """A Cedar string literal that means exactly ``text``."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def cedar_pattern(glob: str) -> str:
    """A Cedar ``like`` pattern: ``*`` is the wildcard, nothing else has a meaning."""
    return '"' + "".join("*" if char == "*" else _escaped(char) for char in glob) + '"'


def role_policy(name: str, role: Role) -> str:
    """One permit for one role; "" when the role grants nothing."""
    if not role.servers:
        return ""
    servers = _any_of("resource.server", role.servers)
    tools = " || ".join(_tool_condition(glob) for glob in role.tools) or "false"
    return (
        f"@id({cedar_string('role:' + name)})\n"
        f"permit(principal in Role::{cedar_string(name)}, action, resource)\n"
        f"when {{ ({servers}) && (!(resource is Tool) || {tools}) }};\n"
    )


def _tool_condition(glob: str) -> str:
    # A slash always means server/tool: a tool that calls itself "billing/refund" gains nothing by its name.
    attribute = "resource.path" if "/" in glob else "resource.name"
    return f"(resource is Tool && {attribute} like {cedar_pattern(glob)})"


def _any_of(attribute: str, globs: tuple[str, ...]) -> str:
    return " || ".join(f"{attribute} like {cedar_pattern(glob)}" for glob in globs)


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~":
        return char
    return f"\\u{{{ord(char):x}}}"
