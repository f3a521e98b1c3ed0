"""Settings of TLS, and the rule that nothing leaves the machine in the clear."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from doorward.catalogue.server import SecretReference, ServerSpec, ServerTls
from doorward.settings_common import OPEN_PROFILES, is_loopback, split_listen
from doorward.settings_meta import says as _says

if TYPE_CHECKING:
    from doorward.settings import Settings
    from doorward.settings_load import Reader


class ListenerTls(msgspec.Struct, frozen=True, kw_only=True):
    """``tls`` of ``[gateway]`` and ``[admin]``: the certificate that a listener shows."""

    cert: Annotated[str, _says("The certificate in PEM form, then those that lead to its root.")] = ""
    key: Annotated[SecretReference | None, _says("A reference to its private key in PEM form.")] = None
    client_ca: Annotated[
        str, _says("Authorities of client certificates, in PEM form; empty asks no client for one.")
    ] = ""
    client_certificate: Annotated[
        Literal["optional", "required"],
        _says(
            "With `client_ca`: whether a client without a certificate is refused before it says anything, or only tokens that are bound to one."
        ),
    ] = "optional"
    min_version: Annotated[Literal["1.2", "1.3"], _says("The oldest version of TLS that is spoken.")] = "1.3"


def resolved_transport(settings: Settings, reader: Reader) -> Settings:
    """The same settings with the paths of TLS files absolute."""

    def resolved(tls: ListenerTls | None) -> ListenerTls | None:
        if tls is None:
            return None
        cert = reader.resolve_path(tls.cert) if tls.cert else ""
        client_ca = reader.resolve_path(tls.client_ca) if tls.client_ca else ""
        return msgspec.structs.replace(tls, cert=cert, client_ca=client_ca)

    gateway = msgspec.structs.replace(settings.gateway, tls=resolved(settings.gateway.tls))
    if gateway.tls is not None and not reader.is_written("gateway", "public_url"):
        gateway = msgspec.structs.replace(gateway, public_url=f"https://{gateway.listen}")
    admin = msgspec.structs.replace(settings.admin, tls=resolved(settings.admin.tls))
    return msgspec.structs.replace(settings, gateway=gateway, admin=admin)


def check_transport(settings: Settings, reader: Reader) -> None:
    """What listens beyond loopback does so with TLS; and TLS has what it needs."""
    gateway = settings.gateway
    for table, listen, tls in (
        ("gateway", gateway.listen, gateway.tls),
        ("admin", settings.admin.listen, settings.admin.tls),
    ):
        if tls is not None:
            _check_listener(table, tls, reader)
        elif not is_loopback(split_listen(listen)[0]):
            _check_plain(table, settings, reader)
    scheme = urlsplit(gateway.public_url).scheme
    if gateway.tls is not None and scheme != "https":
        reader.fail(
            "settings-invalid", ("gateway", "public_url"), "must begin with https where gateway.tls is set."
        )
    if gateway.terminator:
        if gateway.profile in OPEN_PROFILES:
            reader.fail(
                "settings-floor",
                ("gateway", "terminator"),
                "is for profile team and above, where settings are reviewed; give Doorward a certificate itself.",
            )
        if gateway.tls is not None or scheme != "https":
            reader.fail(
                "settings-invalid",
                ("gateway", "terminator"),
                "says that something else speaks TLS for Doorward: without gateway.tls, and with an https public_url.",
            )


def _check_listener(table: str, tls: ListenerTls, reader: Reader) -> None:
    for key in ("cert", "key"):
        if not getattr(tls, key):
            reader.fail("settings-invalid", (table, "tls", key), "is required.")
    if tls.client_ca and tls.min_version != "1.3":
        reader.fail(
            "settings-floor",
            (table, "tls", "min_version"),
            "client_ca needs 1.3: TLS 1.2 sends a client's certificate in the clear, and resumes it unverified.",
        )
    if table == "admin" and tls.client_ca:
        reader.fail(
            "settings-not-available", (table, "tls", "client_ca"), "the admin plane knows its token only."
        )
    if tls.client_certificate == "required" and not tls.client_ca:
        reader.fail("settings-invalid", (table, "tls", "client_certificate"), '"required" needs client_ca.')


def _check_plain(table: str, settings: Settings, reader: Reader) -> None:
    """SECURITY: the one place where plain HTTP beyond loopback can be let through."""
    if settings.gateway.terminator and table == "gateway":
        return
    hint = "set gateway.tls, or listen on loopback"
    if table == "admin":
        hint = "set admin.tls, or listen on loopback"
    elif settings.gateway.profile not in OPEN_PROFILES:
        hint += ", or name in gateway.terminator what speaks TLS before Doorward"
    reader.fail("settings-floor", (table, "listen"), f"plain HTTP is for loopback addresses only: {hint}.")


def checked_server_tls(spec: ServerSpec, reader: Reader) -> ServerSpec:
    """A server's ``tls`` with absolute paths, once its rules hold."""
    tls, path = spec.tls, ("servers", spec.name, "tls")
    if tls is None:
        return spec
    if not spec.url.startswith("https:"):
        reader.fail("settings-invalid", path, "is for servers with an https url.")
    for index, pin in enumerate(tls.pin):
        if not _is_pin(pin):
            reader.fail(
                "settings-invalid",
                (*path, "pin", index),
                'expected "sha256/" and the Base64 of 32 bytes, the digest of a public key.',
            )
    if reader.is_written(*path, "mode") and not tls.pin:
        reader.fail("settings-invalid", (*path, "mode"), "says what a broken pin does; there is no pin.")
    if bool(tls.client_cert) != (tls.client_key is not None):
        reader.fail("settings-invalid", path, "client_cert and client_key go together.")
    return msgspec.structs.replace(spec, tls=_absolute(tls, reader))


def _absolute(tls: ServerTls, reader: Reader) -> ServerTls:
    return msgspec.structs.replace(
        tls,
        ca_file=reader.resolve_path(tls.ca_file) if tls.ca_file else "",
        client_cert=reader.resolve_path(tls.client_cert) if tls.client_cert else "",
    )


def _is_pin(pin: str) -> bool:
    kind, slash, digest = pin.partition("/")
    try:
        raw = base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        return False
    # One spelling only, or a pin that never fits would look like one that does.
    return bool(slash) and kind == "sha256" and len(raw) == 32 and base64.b64encode(raw).decode() == digest
