"""Which issuers are trusted, from settings and from what the supervisor sends of their keys."""

from __future__ import annotations

from typing import Any

import msgspec

from doorward.identity.foreign_judge import KnownKeys
from doorward.identity.metadata import FEDERATED, SCOPE, resource_of
from doorward.identity.trust import TrustedIssuer, trusted
from doorward.settings import Settings

PAPER = "issuers"  # names of the offices, under which their papers lie in a snapshot
WITHDRAWN = "withdrawn"


def trusts_of(settings: Settings) -> list[TrustedIssuer]:
    """Every ``[[identity.issuers]]``, completed; none unless the mode is external."""
    if settings.identity.mode != "external":
        return []
    url = settings.gateway.public_url
    resources = [(name, resource_of(url, name)) for name in (FEDERATED, *settings.servers)]
    return [trusted(msgspec.structs.asdict(one), resources) for one in settings.identity.issuers]


def scopes_of(settings: Settings) -> list[str]:
    """What clients must ask for, in the order of the issuers, each once."""
    if settings.identity.mode != "external":
        return [SCOPE]
    return list(dict.fromkeys(part for one in trusts_of(settings) for part in one.ask_scope.split()))


def keys_of(payload: dict[str, Any]) -> dict[str, KnownKeys]:
    """The keys in a snapshot; none where the office has not fetched any."""
    paper = (payload.get("papers") or {}).get(PAPER) or {}
    return {
        issuer: KnownKeys(jwks={"keys": one["keys"]}, until=float(one["until"]))
        for issuer, one in paper.items()
    }


def withdrawn_of(payload: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Subjects whose tokens from before a moment count for nothing, by issuer and subject."""
    paper = (payload.get("papers") or {}).get(WITHDRAWN) or []
    return {(str(issuer), str(subject)): float(before) for issuer, subject, before in paper}
