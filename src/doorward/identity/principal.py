"""Who is asking, as a value."""

from __future__ import annotations

import hashlib

import msgspec

from doorward.identity.binding import FREE, Confirmation


class Principal(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A verified caller: the key under which sessions, limits and records are kept.

    ``client`` is the OAuth client, not the self-reported ``clientInfo``; ``token_id`` is the ``jti``.
    """

    tenant: str
    issuer: str
    subject: str
    client: str
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    token_id: str = ""
    expires_at: float = 0.0  # Unix seconds; 0 means that no token stands behind it
    bound: Confirmation = FREE  # what the token asks of whoever presents it; bind-token sees to it

    key: str = ""  # injective over (tenant, issuer, subject, client); survives token refresh (SF-26)

    def __post_init__(self) -> None:
        parts = (self.tenant, self.issuer, self.subject, self.client)
        key = "|".join(part.replace("%", "%25").replace("|", "%7C") for part in parts)
        msgspec.structs.force_setattr(self, "key", key)

    def attributes_digest(self) -> str:
        """Digest of everything a policy may read of this principal; different attributes never share a text."""
        return hashlib.sha256(msgspec.json.encode((self.key, self.roles, self.scopes))).hexdigest()[:32]


def subject_of(key: str) -> str:
    """The subject in a principal's key; a text that is no such key stands for itself."""
    parts = key.split("|")
    return parts[2].replace("%7C", "|").replace("%25", "%") if len(parts) == 4 else key


LOCAL = Principal(tenant="local", issuer="local", subject="local", client="local", roles=("user",))
