"""The description of the admin API (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doorward.console.acts import Act

_VIEWS = {
    "status": ("object", "Whether Doorward is ready, since when, and which settings are in force."),
    "workers": ("array", "The worker processes with their sessions, streams and requests."),
    "servers": ("array", "The protected servers, their sandbox and running processes."),
    "controls": ("array", "Controls and postures: mode, state, refusals, labs."),
    "limits": ("array", "The limits in force."),
    "calls": ("array", "The newest records of the ledger, newest first."),
    "overview": ("object", "All of the above in one document, as the page shows it."),
}
_ACTS = {
    "revocations": (
        "Revoke an access token everywhere.",
        {
            "type": "object",
            "required": ["jti", "until"],
            "properties": {
                "jti": {"type": "string", "maxLength": 256},
                "until": {"type": "number", "description": "Unix seconds after which it has expired anyway"},
            },
        },
    ),
    "reload": ("Take the settings file anew; 422 when it is refused.", {"type": "object"}),
}


def _answer(kind: str, text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"type": kind}}}}


def document_of(acts: Sequence[Act] = ()) -> dict[str, Any]:
    """The whole description, with what offices add."""
    refused = {
        "401": _answer("object", "No or a wrong admin token."),
        "403": _answer("object", "Host or Origin."),
    }
    paths: dict[str, Any] = {
        f"/api/v1/{name}": {"get": {"summary": text, "responses": {"200": _answer(kind, text), **refused}}}
        for name, (kind, text) in _VIEWS.items()
    }
    for name, (text, schema) in _ACTS.items():
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        answers = {"200": _answer("object", "Done."), **refused}
        paths[f"/api/v1/{name}"] = {"post": {"summary": text, "requestBody": body, "responses": answers}}
    for act in acts:
        verb: dict[str, Any] = {
            "summary": act.summary,
            "responses": {"200": _answer("object", act.summary), **refused},
        }
        if act.verb == "POST":
            verb["requestBody"] = {"required": True, "content": {"application/json": {"schema": act.schema}}}
        names = [part[1:-1] for part in act.path.split("/") if part.startswith("{")]
        if names:
            verb["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        paths.setdefault(f"/api/v1/{act.path}", {})[act.verb.lower()] = verb
    return {
        "openapi": "3.1.0",
        "info": {"title": "Doorward admin", "version": "1"},
        "security": [{"token": []}],
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }


DOCUMENT = document_of()
