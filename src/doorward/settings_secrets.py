"""Settings of secrets: ``[secrets]``, where the stores are that references lead to. No secret stands here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from doorward.catalogue.server import SecretReference, ServerSpec
from doorward.identity.oauth_metadata import is_url
from doorward.settings_common import OPEN_PROFILES, is_loopback
from doorward.settings_meta import says as _says

if TYPE_CHECKING:
    from doorward.settings import Settings
    from doorward.settings_load import Reader


class VaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[secrets.vault]``: HashiCorp Vault or OpenBao, key-value engine of version 2."""

    url: Annotated[str, _says("Address of the server, such as https://vault.example.internal:8200.")] = ""
    namespace: Annotated[str, _says("Namespace, where the server has them.")] = ""
    auth: Annotated[
        Literal["token", "approle"],
        _says("How Doorward signs in: with `token`, or with `role_id` and `secret_id`."),
    ] = "token"
    token: Annotated[SecretReference | None, _says("Reference to the token: a file or a variable.")] = None
    role_id: Annotated[str, _says("The AppRole's id, which is no secret.")] = ""
    secret_id: Annotated[
        SecretReference | None, _says("Reference to the AppRole's secret id: a file or a variable.")
    ] = None
    approle_mount: Annotated[str, _says("Where the AppRole method is mounted.")] = "approle"
    ca_file: Annotated[
        str, _says("Authorities (PEM) that alone are trusted; empty is those of the system.")
    ] = ""


class KeyVaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[secrets.keyvault]``: Azure Key Vault."""

    auth: Annotated[
        Literal["client-secret", "managed-identity"],
        _says("How Doorward gets a token: as an application, or as the machine that it runs on."),
    ] = "client-secret"
    tenant: Annotated[str, _says("Directory (tenant) id.")] = ""
    client_id: Annotated[
        str, _says("Application id; for a managed identity of the user's own its client id.")
    ] = ""
    client_secret: Annotated[
        SecretReference | None, _says("Reference to the application's secret: a file or a variable.")
    ] = None
    authority: Annotated[str, _says("Where tokens come from.")] = "https://login.microsoftonline.com"
    dns_suffix: Annotated[str, _says("What follows a vault's name.")] = "vault.azure.net"
    identity_endpoint: Annotated[
        str, _says("Where the machine gives out tokens for a managed identity (App Service, Arc, a proxy).")
    ] = ""
    ca_file: Annotated[
        str, _says("Authorities (PEM) that alone are trusted; empty is those of the system.")
    ] = ""


class HoneytokenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[[secrets.honeytokens]]``: a token that opens nothing; whoever presents it has been where nobody should be."""

    name: Annotated[
        str, _says("What the alert calls it: where it was laid out.", min_length=1, max_length=64)
    ]
    sha256: Annotated[str, _says("Digest of the token, as `doorward secrets honeytoken` prints it.")]


class SecretsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[secrets]``: the stores that references lead to."""

    reread_seconds: Annotated[
        float,
        _says(
            "Secrets are read again after this many seconds, and a changed one is taken up.",
            ge=0.2,
            le=86_400,
        ),
    ] = 30.0
    vault: Annotated[VaultSettings, _says("HashiCorp Vault or OpenBao.")] = VaultSettings()
    keyvault: Annotated[KeyVaultSettings, _says("Azure Key Vault.")] = KeyVaultSettings()
    honeytokens: Annotated[
        tuple[HoneytokenSettings, ...], _says("Tokens that are laid out to be stolen.")
    ] = ()


def check_secrets(settings: Settings, reader: Reader) -> None:
    """Stores that references lead to are described, and what opens a store lies in none."""
    given = settings.secrets
    _check_own(given, settings.gateway.profile, reader)
    for where, reference in references_of(settings):
        for kind, is_set in (("vault", bool(given.vault.url)), ("keyvault", _is_set(given.keyvault))):
            if getattr(reference, kind) is not None and not is_set:
                reader.fail("settings-invalid", ("secrets", kind), f"is needed for {where}.")


def _check_own(given: SecretsSettings, profile: str, reader: Reader) -> None:
    vault, keyvault = given.vault, given.keyvault
    for path, url in (
        (("vault", "url"), vault.url),
        (("keyvault", "authority"), keyvault.authority),
        (("keyvault", "identity_endpoint"), keyvault.identity_endpoint),
    ):
        plain = url.startswith("http:")
        fine = is_url(url) and "?" not in url
        if url and not (
            fine and (not plain or (is_loopback(urlsplit(url).hostname or "") and profile in OPEN_PROFILES))
        ):
            reader.fail("settings-invalid", ("secrets", *path), "expected an absolute https URL.")
    if vault.url:
        needs = ("token",) if vault.auth == "token" else ("role_id", "secret_id")
        for name in needs:
            if not getattr(vault, name):
                reader.fail(
                    "settings-invalid", ("secrets", "vault", name), f'is needed for auth = "{vault.auth}".'
                )
    if reader.is_written("secrets", "keyvault") and not _is_set(keyvault):
        reader.fail("settings-invalid", ("secrets", "keyvault"), "needs tenant, client_id and client_secret.")
    for path, reference in (
        (("vault", "token"), vault.token),
        (("vault", "secret_id"), vault.secret_id),
        (("keyvault", "client_secret"), keyvault.client_secret),
    ):
        if reference is not None and reference.file is None and reference.env is None:
            reader.fail(
                "settings-invalid", ("secrets", *path), "opens a store, so it lies in none; use file or env."
            )


def _is_set(keyvault: KeyVaultSettings) -> bool:
    if keyvault.auth == "managed-identity":
        return True
    return bool(keyvault.tenant and keyvault.client_id and keyvault.client_secret is not None)


def references_of(value: object) -> Iterator[tuple[str, SecretReference]]:
    """Every secret reference in settings, wherever it stands, with its dotted key."""
    from doorward.settings_load import dotted

    for path, reference in paths_of(value):
        yield dotted(path), reference


def paths_of(
    value: object, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], SecretReference]]:
    """As ``references_of``, with the parts of the key."""
    if isinstance(value, SecretReference):
        yield path, value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if not (isinstance(value, ServerSpec) and name == "name"):
                yield from paths_of(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from paths_of(part, (*path, str(name)))
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from paths_of(part, (*path, index))
