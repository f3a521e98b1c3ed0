"""The shape of messages: methods of the era, params of each method, and tools that a listing may hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from doorward.base.errors import CallerError
from doorward.controls.control import Call, Control, Facts, Note, Refuse, Verdict
from doorward.protocol import codes, headers, legacy, modern

_NAME_CHARS = 128
_URI_CHARS = 8_192
_TEXT_CHARS = 8_192
_SCHEMA_DEPTH = 64
# The specification advises A-Z a-z 0-9 _ . - only; real servers also use : and /, but no other script and no spaces.
_TOOL_NAME = re.compile(r"[!-~]{1,128}")
_LOG_LEVELS = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})
_MISSING: Any = object()


class CheckShape(Control):
    """Refuse messages that their era does not know or that are misshapen; drop invalid tools from listings."""

    slug: ClassVar[str] = "check-shape"
    partly: ClassVar[tuple[str, ...]] = ("S3.2", "S12.1")
    floor: ClassVar[bool] = True

    def request(self, call: Call, seen: Facts) -> Verdict:
        message = call.message
        is_modern = call.era == "modern"
        if message.kind != "request":
            return self._judge_other(call, is_modern=is_modern)
        if is_modern:
            try:
                modern.check_version(modern.envelope_of(message).version)
            except CallerError as error:
                return _refuse(error.code, error.tell, error.status, code=error.rpc_code, extra=error.data)
        if message.method not in (modern.CLIENT_REQUESTS if is_modern else legacy.CLIENT_REQUESTS):
            return _refuse(
                "method-unknown",
                "Method not found.",
                404 if is_modern else 200,
                code=codes.METHOD_NOT_FOUND,
                help="List what the server offers; methods of other protocol versions are not served.",
            )
        reason = fault_in_params(message.method, message.params or {})
        if reason is not None:
            return _refuse("params", reason, 200, code=codes.INVALID_PARAMS)
        return None

    def _judge_other(self, call: Call, *, is_modern: bool) -> Verdict:
        if call.message.kind == "response":
            if is_modern:
                # 2026-07-28 basic/transports: clients must not post responses.
                return _refuse("response", "This protocol version takes no responses from clients.", 400)
            return None
        known = modern.CLIENT_NOTIFICATIONS if is_modern else legacy.CLIENT_NOTIFICATIONS
        if call.message.method not in known:
            # A request without id would run with nobody to answer; a server's notification is not a client's to send.
            return _refuse("notification-unknown", "This is no notification of a client.", 400)
        reason = fault_in_notification(call.message.method, call.message.params or {})
        return None if reason is None else _refuse("params", reason, 400, code=codes.INVALID_PARAMS)

    def listing(self, call: Call, items: list[dict[str, Any]], key: str) -> Verdict:
        judge = _JUDGES.get(key)
        if judge is None:
            return None
        kept: list[dict[str, Any]] = []
        faults: list[str] = []
        names: set[str] = set()
        field = "uri" if key == "resources" else "uriTemplate" if key == "resourceTemplates" else "name"
        for item in items:
            fault = judge(item, call.era == "modern")
            if fault is None and item[field] in names and key in ("tools", "prompts"):
                fault = "its name is listed twice"
            if fault is None:
                names.add(item[field])
                kept.append(item)
            else:
                faults.append(fault)
        if not faults:
            return None
        items[:] = kept
        return Note(
            f"dropped {len(faults)} of {len(faults) + len(kept)} {key}: {'; '.join(sorted(set(faults)))}"
        )


def fault_in_params(method: str, params: dict[str, Any]) -> str | None:
    """What is wrong with the params of a client's request, or None. The reason holds no text of the peer."""
    if "_meta" in params:
        meta = params["_meta"]
        if type(meta) is not dict:
            return "_meta is not an object."
        token = meta.get("progressToken", "")
        if type(token) is not str and type(token) is not int:
            return "The progressToken is neither a string nor an integer."
    judge = _REQUESTS.get(method)
    return judge(params) if judge is not None else None


def fault_in_notification(method: str, params: dict[str, Any]) -> str | None:
    """What is wrong with the params of a client's notification, or None."""
    key = {"notifications/cancelled": "requestId", "notifications/progress": "progressToken"}.get(method)
    if key is not None and type(params.get(key)) not in (str, int):
        return f"{key} is neither a string nor an integer."
    return None


def _string(params: dict[str, Any], key: str, cap: int, *, optional: bool = False) -> str | None:
    value = params.get(key, _MISSING)
    if value is _MISSING:
        return None if optional else f"{key} is missing."
    if type(value) is not str:
        return f"{key} is not a string."
    if len(value) > cap or (cap != _TEXT_CHARS and not value):
        return f"{key} does not have 1 to {cap} characters."
    return None


def _call(params: dict[str, Any]) -> str | None:
    name = params.get("name")
    if type(name) is not str or not 0 < len(name) <= _NAME_CHARS:
        return _string(params, "name", _NAME_CHARS)
    # Some servers parse a string here as JSON, which nobody has looked into.
    if type(params.get("arguments", {})) is not dict:
        return "arguments is not an object."
    return None


def _get_prompt(params: dict[str, Any]) -> str | None:
    if (fault := _call(params)) is not None:
        return fault
    if any(type(value) is not str for value in params.get("arguments", {}).values()):
        return "An argument of the prompt is not a string."
    return None


def _uri(params: dict[str, Any]) -> str | None:
    return _string(params, "uri", _URI_CHARS)


def _cursor(params: dict[str, Any]) -> str | None:
    return _string(params, "cursor", _TEXT_CHARS, optional=True)


def _task(params: dict[str, Any]) -> str | None:
    return _string(params, "taskId", _NAME_CHARS * 8)


def _level(params: dict[str, Any]) -> str | None:
    level = params.get("level")
    return None if type(level) is str and level in _LOG_LEVELS else "level is no log level."


def _initialize(params: dict[str, Any]) -> str | None:
    if type(params.get("protocolVersion")) is not str:
        return "protocolVersion is not a string."
    if type(params.get("capabilities")) is not dict:
        return "capabilities is not an object."
    if type(params.get("clientInfo", {})) is not dict:
        return "clientInfo is not an object."
    return None


def _complete(params: dict[str, Any]) -> str | None:
    ref, argument = params.get("ref"), params.get("argument")
    if type(ref) is not dict or type(ref.get("type")) is not str:
        return "ref is not an object with a type."
    if type(ref.get("name", ref.get("uri"))) is not str:
        return "ref names neither a prompt nor a resource."
    if (
        type(argument) is not dict
        or type(argument.get("name")) is not str
        or type(argument.get("value")) is not str
    ):
        return "argument is not an object with a name and a value."
    return None


def _listen(params: dict[str, Any]) -> str | None:
    return None if type(params.get("notifications")) is dict else "notifications is not an object."


_REQUESTS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "initialize": _initialize,
    "tools/list": _cursor,
    "tools/call": _call,
    "prompts/list": _cursor,
    "prompts/get": _get_prompt,
    "resources/list": _cursor,
    "resources/templates/list": _cursor,
    "resources/read": _uri,
    "resources/subscribe": _uri,
    "resources/unsubscribe": _uri,
    "completion/complete": _complete,
    "logging/setLevel": _level,
    "subscriptions/listen": _listen,
    "tasks/list": _cursor,
    "tasks/get": _task,
    "tasks/result": _task,
    "tasks/update": _task,
    "tasks/cancel": _task,
}


def fault_in_tool(tool: object, is_modern: bool) -> str | None:  # noqa: FBT001 - one shape for all judges
    """Why a listed tool is not served, or None. The reason holds no text of the peer."""
    if type(tool) is not dict:
        return "it is not an object"
    name = tool.get("name")
    if type(name) is not str or not _TOOL_NAME.fullmatch(name):
        return "its name is not 1 to 128 characters of visible ASCII"
    schema = tool.get("inputSchema")
    if type(schema) is not dict or schema.get("type") != "object":
        return "its inputSchema is not an object schema"
    if type(schema.get("properties", {})) is not dict:
        return "its properties are not an object"
    output = tool.get("outputSchema", {})
    if type(output) is not dict:
        return "its outputSchema is not an object"
    if type(tool.get("annotations", {})) is not dict:
        return "its annotations are not an object"
    if type(tool.get("description", "")) is not str:
        return "its description is not a string"
    if is_deeper(schema, _SCHEMA_DEPTH) or is_deeper(output, _SCHEMA_DEPTH):
        return f"a schema is nested deeper than {_SCHEMA_DEPTH} levels"
    if is_modern and headers.invalid_annotations(tool) is not None:
        return "its x-mcp-header annotations are invalid"
    return None


def _fault_in_prompt(prompt: object, is_modern: bool) -> str | None:  # noqa: ARG001, FBT001
    if (
        type(prompt) is not dict
        or type(prompt.get("name")) is not str
        or not 0 < len(prompt["name"]) <= _NAME_CHARS
    ):
        return "its name is not a string of 1 to 128 characters"
    return None


def _fault_in_resource(resource: object, is_modern: bool) -> str | None:  # noqa: ARG001, FBT001
    uri = resource.get("uri") if type(resource) is dict else None
    return None if type(uri) is str and 0 < len(uri) <= _URI_CHARS else "its uri is no usable string"


def _fault_in_template(template: object, is_modern: bool) -> str | None:  # noqa: ARG001, FBT001
    uri = template.get("uriTemplate") if type(template) is dict else None
    return None if type(uri) is str and 0 < len(uri) <= _URI_CHARS else "its uriTemplate is no usable string"


_JUDGES: dict[str, Callable[[object, bool], str | None]] = {
    "tools": fault_in_tool,
    "prompts": _fault_in_prompt,
    "resources": _fault_in_resource,
    "resourceTemplates": _fault_in_template,
}


def is_deeper(value: object, levels: int) -> bool:
    """True when objects and arrays are nested deeper than ``levels``; without recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        if not level:
            return False
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
    return bool(level)


def _refuse(
    reason: str,
    tell: str,
    status: int,
    *,
    code: int = codes.INVALID_REQUEST,
    help: str = "Mend the message and send it again.",  # noqa: A002 - the name of the verdict's field
    extra: dict[str, Any] | None = None,
) -> Refuse:
    return Refuse(reason=reason, tell=tell, code=code, status=status, help=help, extra=extra)
