"""Settings of secrets: ``[secrets]``, where the stores are that references lead to. No secret stands here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from doorward.catalogue.server import SecretReference, ServerSpec
from doorward.settings_meta import says as _says


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


def references_of(value: object, key: str = "") -> Iterator[tuple[str, SecretReference]]:
    """Every secret reference in settings, wherever it stands, with its dotted key."""
    from doorward.settings import join_key

    if isinstance(value, SecretReference):
        yield key, value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if not (isinstance(value, ServerSpec) and name == "name"):
                yield from references_of(getattr(value, name), join_key(key, name))
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from references_of(part, join_key(key, str(name)))
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from references_of(part, f"{key}[{index}]")
