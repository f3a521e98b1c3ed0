"""Certificates and keys as bytes, and the TLS contexts made of them (RFC 8446, RFC 9325, RFC 5280).

The supervisor reads files and judges them here; a worker gets bytes over the bus and makes its context of them, so that keys are
read once, by one process, and a pair that does not fit never reaches a listener.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from doorward.base.errors import OperatorError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

PEM_BYTES = 262_144  # a chain or a bundle of private authorities; none is near this size
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2, where it is allowed: forward secrecy and AEAD only
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ListenerMaterial(msgspec.Struct, frozen=True):
    """What a TLS listener is made of; PEM throughout. Never printed, never logged."""

    chain: bytes
    key: bytes
    client_ca: bytes = b""  # b"": no client is asked for a certificate
    requires_client: bool = False
    min_version: Literal["1.2", "1.3"] = "1.3"

    def __repr__(self) -> str:
        return "ListenerMaterial(...)"


class UpstreamMaterial(msgspec.Struct, frozen=True):
    """What a TLS connection to one upstream is made of beyond the system's authorities; PEM."""

    ca: bytes = b""  # b"": the system's authorities
    chain: bytes = b""  # our client certificate
    key: bytes = b""

    def __repr__(self) -> str:
        return "UpstreamMaterial(...)"


class CertificateFacts(msgspec.Struct, frozen=True):
    """What may be shown of a certificate."""

    subject: str
    issuer: str
    serial: str
    names: tuple[str, ...]
    spki: str  # "sha256/..." as pins are written (RFC 7469 §2.4)
    not_before: float  # Unix seconds
    not_after: float


def facts_of_der(der: bytes) -> CertificateFacts:
    """Read one certificate. Raises: ValueError."""
    return _facts(x509.load_der_x509_certificate(der))


def thumbprint_of(path: Path) -> str:
    """x5t#S256 of the certificate in a PEM file (RFC 8705 §3.1). Raises: OperatorError ``tls-certificate``."""
    try:
        der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    except (OSError, ValueError) as error:
        raise _unfit(path.name, "is no readable certificate in PEM form") from error
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


def spki_pin(key: PublicKeyTypes) -> str:
    """The pin of a public key: SHA-256 of its SubjectPublicKeyInfo."""
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256/" + base64.b64encode(hashlib.sha256(info).digest()).decode()


def _facts(one: x509.Certificate) -> CertificateFacts:
    names: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        found = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*found.get_values_for_type(x509.DNSName)]
        names += [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return CertificateFacts(
        subject=one.subject.rfc4514_string(),
        issuer=one.issuer.rfc4514_string(),
        serial=f"{one.serial_number:x}",
        names=tuple(names),
        spki=spki_pin(one.public_key()),
        not_before=one.not_valid_before_utc.timestamp(),
        not_after=one.not_valid_after_utc.timestamp(),
    )


def check_pair(chain: bytes, key: bytes, where: str, now: float) -> CertificateFacts:
    """What stands first in ``chain``, if ``key`` belongs to it and it is in force.

    Raises: OperatorError ``tls-certificate``.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        leaf, facts = certificates[0], _facts(certificates[0])
    except (ValueError, IndexError) as error:
        raise _unfit(where, "the file holds no certificate in PEM form") from error
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError as error:
        raise _unfit(where, "the key is protected by a password; Doorward takes keys without one") from error
    except ValueError as error:
        raise _unfit(where, "the file of the key holds no private key in PEM form") from error
    if spki_pin(private.public_key()) != spki_pin(leaf.public_key()):
        raise _unfit(where, "the key does not belong to the certificate")
    # A chain holds as long as what holds the shortest.
    ends = min(one.not_valid_after_utc.timestamp() for one in certificates)
    facts = msgspec.structs.replace(facts, not_after=ends)
    if facts.not_after <= now:
        raise _unfit(where, "the certificate has run out")
    if facts.not_before > now:
        raise _unfit(where, "the certificate is not valid yet")
    return facts


def check_authorities(pem: bytes, where: str) -> None:
    """See that a bundle holds authorities. Raises: OperatorError ``tls-certificate``."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise _unfit(where, "the file holds no certificate in PEM form") from error
    for one in found:
        try:
            fine = one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, ValueError):
            fine = False
        if not fine:
            raise _unfit(where, "a certificate in it is no authority (basicConstraints CA)")


def server_context(material: ListenerMaterial) -> ssl.SSLContext:
    """The context of a listener. Raises: OperatorError ``tls-certificate``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[material.min_version]
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # SECURITY: no resumption. A resumed connection brings the client certificate of an earlier one, which nobody verifies
    # again; and workers share no ticket keys anyway (tests/wire/test_tls_face.py).
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    load_pair(context, material.chain, material.key)
    if material.client_ca:
        context.load_verify_locations(cadata=material.client_ca.decode("ascii", "replace"))
        # SECURITY: TLS 1.2 shows certificates to everybody, and OpenSSL resumes its sessions by id, tickets or not.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED if material.requires_client else ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def upstream_context(material: UpstreamMaterial) -> ssl.SSLContext:
    """The context towards an upstream: names are always checked. Raises: OperatorError ``tls-certificate``."""
    if material.ca:
        context = ssl.create_default_context(cadata=material.ca.decode("ascii", "replace"))
    else:
        context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if material.chain:
        load_pair(context, material.chain, material.key)
    return context


def load_pair(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Let a context show this pair. Raises: OperatorError ``tls-certificate``."""
    try:
        with _as_file(chain + b"\n" + key) as path:
            context.load_cert_chain(path, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise _unfit("tls", "OpenSSL does not take certificate and key") from error


def _no_password() -> bytes:
    """Without this OpenSSL would ask the terminal."""
    return b""


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to ``content`` for OpenSSL, which takes nothing else: in memory where the system can, else for a moment."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("doorward-tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile(mode="wb") as file:  # 0600, in a folder of its own making
            file.write(content)
            file.flush()
            yield file.name


def _unfit(where: str, what: str) -> OperatorError:
    return OperatorError("tls-certificate", f"{where}: {what}.")
