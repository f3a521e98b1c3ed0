"""``doorward token``: print one access token of the embedded accounts, with or without a running Doorward."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from doorward.adapters.key_files import load_or_create_keys
from doorward.base.clock import SystemClock, rfc3339
from doorward.base.errors import OperatorError
from doorward.identity import metadata
from doorward.identity.binding import FREE, Confirmation, read_confirmation, written
from doorward.identity.tokens import MAX_LIFETIME_SECONDS, issue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from doorward.base.clock import Clock
    from doorward.settings import Settings

CLIENT = "doorward-cli"  # the OAuth client that this command is
DEFAULT_TTL_SECONDS = 3_600
_CREATED_ROLE = "user"
_OPEN_PROFILES = ("local", "lab")  # where an unknown user is created


class Minted(msgspec.Struct, frozen=True):
    """A fresh token and what it says."""

    access_token: str
    resource: str
    user: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    expires_at: str  # RFC 3339
    created: bool  # the account stands in no settings
    token_type: str = "Bearer"


def mint_token(
    settings: Settings,
    *,
    user: str,
    server: str,
    roles: Sequence[str] = (),
    scopes: Sequence[str] = (),
    ttl_seconds: int = DEFAULT_TTL_SECONDS,
    clock: Clock | None = None,
    confirmation: Confirmation = FREE,
) -> Minted:
    """Issue a token as the settings allow it; no roles means all that the user has, no scopes the usual one.

    Raises:
        OperatorError: ``token-...`` when the settings or arguments do not allow it, ``key-file-...`` as the keys do.
    """
    clock = clock or SystemClock()
    if settings.identity.mode != "embedded":
        raise OperatorError(
            "token-not-embedded",
            f'Tokens are issued here only with identity.mode = "embedded"; it is "{settings.identity.mode}".',
        )
    if not 1 <= ttl_seconds <= MAX_LIFETIME_SECONDS:
        raise OperatorError("token-lifetime", f"--ttl-seconds lies between 1 and {MAX_LIFETIME_SECONDS}.")
    known_servers = (*sorted(settings.servers), metadata.FEDERATED)
    if server not in known_servers:
        raise OperatorError(
            "token-unknown-server",
            f"No server {server!r} in the settings; known: {', '.join(known_servers)}.",
        )
    granted, created = _roles_of(settings, user, tuple(roles))
    public_url = settings.gateway.public_url
    chosen = tuple(part for scope in scopes for part in scope.split()) or metadata.SCOPES
    token = issue(
        load_or_create_keys(Path(settings.gateway.data_dir)),
        issuer=metadata.issuer_of(public_url),
        resource=metadata.resource_of(public_url, server),
        subject=user,
        client=CLIENT,
        roles=granted,
        scopes=chosen,
        ttl_seconds=ttl_seconds,
        clock=clock,
        created=created,
        confirmation=written(confirmation),
    )
    return Minted(
        access_token=token,
        resource=metadata.resource_of(public_url, server),
        user=user,
        roles=granted,
        scopes=chosen,
        expires_at=rfc3339(int(clock.now()) + ttl_seconds),
        created=created,
        token_type="DPoP" if confirmation.key else "Bearer",
    )


def _confirmation(jkt: str, certificate: Path | None) -> Confirmation:
    """What the options bind a token to. Raises: OperatorError ``token-binding``."""
    thumbprint = ""
    if certificate is not None:
        from doorward.adapters.tls_contexts import thumbprint_of

        thumbprint = thumbprint_of(certificate)
    bound = Confirmation(key=jkt, certificate=thumbprint)
    if read_confirmation({"cnf": written(bound)} if bound != FREE else {}) is None:
        raise OperatorError(
            "token-binding", "--jkt is the RFC 7638 thumbprint of a key: 43 characters of base64url."
        )
    return bound


def _roles_of(settings: Settings, user: str, asked: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """The roles that the token names, and whether the account is made up for it."""
    accounts = {account.name: tuple(account.roles) for account in settings.identity.users}
    if user in accounts:
        foreign = [role for role in asked if role not in accounts[user]]
        if foreign:
            has = ", ".join(accounts[user]) or "none"
            raise OperatorError("token-role", f"{user} does not have the role {foreign[0]!r}; roles: {has}.")
        return asked or accounts[user], False
    if settings.gateway.profile not in _OPEN_PROFILES:
        known = ", ".join(sorted(accounts)) or "none"
        raise OperatorError("token-unknown-user", f"No user {user!r} in the settings; known: {known}.")
    if not user:
        raise OperatorError("token-unknown-user", "--user needs a name.")
    unknown = [role for role in asked if role not in settings.roles and role != _CREATED_ROLE]
    if unknown:
        known = ", ".join(sorted({*settings.roles, _CREATED_ROLE}))
        raise OperatorError("token-role", f"No role {unknown[0]!r} in the settings; known: {known}.")
    return asked or (_CREATED_ROLE,), True


def token(
    *,
    user: Annotated[str, Parameter(name="--user", help="Whose token it is.")],
    server: Annotated[str, Parameter(name="--server", help='For which server; "mcp" is all of them as one.')],
    role: Annotated[tuple[str, ...], Parameter(name="--role", help="Only this role; may be repeated.")] = (),
    scope: Annotated[tuple[str, ...], Parameter(name="--scope", help="This scope instead of mcp.")] = (),
    ttl_seconds: Annotated[
        int, Parameter(name="--ttl-seconds", help="How long it is valid.")
    ] = DEFAULT_TTL_SECONDS,
    jkt: Annotated[
        str,
        Parameter(name="--jkt", help="Bind it to the key of this thumbprint: good only with proofs (DPoP)."),
    ] = "",
    certificate: Annotated[
        Path | None,
        Parameter(
            name="--certificate",
            help="Bind it to this client certificate (PEM): good only over its connections.",
        ),
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """Print one access token for one protected server."""
    from doorward.settings import load

    minted = mint_token(
        load(config).settings,
        user=user,
        server=server,
        roles=role,
        scopes=scope,
        ttl_seconds=ttl_seconds,
        confirmation=_confirmation(jkt, certificate),
    )
    if minted.created:
        roles = ", ".join(minted.roles)
        sys.stderr.write(
            f"Created {user} with role {roles}: a name of this token only, allowed in this profile.\n"
        )
    if as_json:
        sys.stdout.write(msgspec.json.encode(minted).decode() + "\n")
    else:
        sys.stdout.write(minted.access_token + "\n")
    return 0
