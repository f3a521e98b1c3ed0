"""Turn one server's names into federated ones and back, in requests, results and notifications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.gateway.routes import join_name, join_uri, split_name, split_uri
from doorward.protocol.message import Message

# Methods that list, and the member of their results that holds the items.
LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
_BY_NAME = frozenset({"tools/call", "prompts/get"})
_BY_URI = frozenset({"resources/read", "resources/subscribe", "resources/unsubscribe"})


def item_of(message: Message) -> str:
    """The tool, prompt or resource that a request names, or ""."""
    params = message.params
    if params is None:
        return ""
    method = message.method
    if method in _BY_NAME:
        name = params.get("name")
    elif method in _BY_URI:
        name = params.get("uri")
    elif method == "completion/complete":
        ref = params.get("ref")
        name = (ref.get("name") or ref.get("uri")) if isinstance(ref, dict) else ""
    else:
        return ""
    return name if isinstance(name, str) else ""


def is_addressed(method: str) -> bool:
    """True for requests that go to the one server whose item they name."""
    return method in _BY_NAME or method in _BY_URI or method == "completion/complete"


def address(message: Message) -> tuple[str, Message] | None:
    """Server and own message of a federated request that names an item; None when the name has no federated form."""
    params = dict(message.params or {})
    if message.method in _BY_NAME:
        found = split_name(str(params.get("name", "")))
        if found is not None:
            params["name"] = found[1]
    elif message.method in _BY_URI:
        found = split_uri(str(params.get("uri", "")))
        if found is not None:
            params["uri"] = found[1]
    else:
        found = _address_ref(params)
    if found is None:
        return None
    value = dict(message.value)
    value["params"] = params
    return found[0], Message(message.kind, message.method, message.id, params, value)


def _address_ref(params: dict[str, Any]) -> tuple[str, str] | None:
    ref = params.get("ref")
    if not isinstance(ref, dict):
        return None
    ref = params["ref"] = dict(ref)
    if isinstance(ref.get("name"), str):
        found = split_name(ref["name"])
        key = "name"
    else:
        found = split_uri(str(ref.get("uri", "")))
        key = "uri"
    if found is not None:
        ref[key] = found[1]
    return found


def rename_items(server: str, items: list[Any], key: str) -> None:
    """Give the items of one server's list their federated names, in place."""
    for item in items:
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("name"), str):
            item["name"] = join_name(server, item["name"])
        for member in ("uri", "uriTemplate"):
            if key.startswith("resource") and isinstance(item.get(member), str):
                item[member] = join_uri(server, item[member])


def _rename_content(server: str, content: Any) -> None:
    """``resource_link`` and embedded resources in a result name URIs that the client may want to read."""
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            continue
        held = block.get("content")  # prompts wrap their content in messages
        inner: dict[str, Any] = held if isinstance(held, dict) else block
        if inner.get("type") == "resource_link" and isinstance(inner.get("uri"), str):
            inner["uri"] = join_uri(server, inner["uri"])
        resource = inner.get("resource")
        if (
            inner.get("type") == "resource"
            and isinstance(resource, dict)
            and isinstance(resource.get("uri"), str)
        ):
            resource["uri"] = join_uri(server, resource["uri"])


def renamer(server: str) -> Callable[[Message], None]:
    """A function that gives a server's replies and notifications their federated URIs, in place."""

    def rename(message: Message) -> None:
        if message.kind != "response":
            if message.method == "notifications/resources/updated" and message.params is not None:
                uri = message.params.get("uri")
                if isinstance(uri, str):
                    message.params["uri"] = join_uri(server, uri)
            return
        result = message.value.get("result")
        if not isinstance(result, dict):
            return
        _rename_content(server, result.get("content"))
        _rename_content(server, result.get("messages"))
        contents = result.get("contents")
        for part in contents if isinstance(contents, list) else ():
            if isinstance(part, dict) and isinstance(part.get("uri"), str):
                part["uri"] = join_uri(server, part["uri"])

    return rename


def both(*renames: Callable[[Message], None] | None) -> Callable[[Message], None]:
    """One function that applies those that there are, in order."""
    given = [one for one in renames if one is not None]
    if len(given) == 1:
        return given[0]

    def rename(message: Message) -> None:
        for one in given:
            one(message)

    return rename
