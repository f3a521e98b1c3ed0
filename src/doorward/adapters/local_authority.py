"""An authority for this machine alone: it can sign for localhost and loopback addresses, and for nothing else.

For laptops, where nobody runs an authority: clients that trust it can be shown no other site by it, because its certificate
limits the names (RFC 5280 §4.2.1.10). Leaves live shortly and are renewed at two thirds of their life.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from doorward.base.errors import OperatorError
from doorward.base.ids import mint_handle

CA_DAYS = 365
LEAF_DAYS = 30
_RENEW_AT = 2 / 3  # of a leaf's life
_CA_REST = datetime.timedelta(days=90)  # an authority with less to live signs nothing that could outlive it
_BACKDATE = datetime.timedelta(hours=1)  # for clocks that differ a little
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_CLIENT_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Made(msgspec.Struct, frozen=True):
    """Where things lie, and what was made anew."""

    ca: Path
    cert: Path
    key: Path
    ca_is_new: bool
    leaf_is_new: bool
    ends_at: float  # Unix seconds, of the leaf


def make_server_leaf(folder: Path, now: float, *, days: int = LEAF_DAYS, renew: bool = False) -> Made:
    """A certificate for loopback, from the authority in ``folder``; both are made where they are missing or due.

    Raises: OperatorError ``local-authority-...``.
    """
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    return _make(
        folder,
        "gateway",
        names,
        ExtendedKeyUsageOID.SERVER_AUTH,
        "Doorward on this machine",
        now,
        days,
        renew,
    )


def renew_where_due(cert: Path, now: float) -> bool:
    """Renew ``cert`` if it is a server's leaf of a local authority beside it, and due; True when it was.

    The authority itself is left alone: clients would not know a new one. Raises: OperatorError ``local-authority-...``.
    """
    folder = cert.parent
    if cert.name != "gateway.pem" or not (folder / "ca.key").exists() or not cert.exists():
        return False
    try:
        ends = x509.load_pem_x509_certificate(
            (folder / "ca.pem").read_bytes()
        ).not_valid_after_utc.timestamp()
        leaf = x509.load_pem_x509_certificate(cert.read_bytes())
    except (OSError, ValueError):
        return False
    if ends - now <= _CA_REST.total_seconds():
        raise OperatorError(
            "local-authority-due",
            f"The authority in {folder} runs out; run `doorward keys ca` and let clients trust the new one.",
        )
    days = round((leaf.not_valid_after_utc - leaf.not_valid_before_utc) / datetime.timedelta(days=1))
    return make_server_leaf(folder, now, days=max(1, min(days, 90))).leaf_is_new


def make_client_leaf(
    folder: Path, name: str, now: float, *, days: int = LEAF_DAYS, renew: bool = False
) -> Made:
    """A certificate for a client called ``name``. Raises: OperatorError ``local-authority-...``."""
    if not name or len(name) > 64 or not set(name) <= _CLIENT_NAME or name in ("ca", "gateway"):
        raise OperatorError(
            "keys-client-name", "A client's name has letters, digits, dots, - and _, at most 64."
        )
    # A URI, for it is under none of the authority's limits; a plain word would be taken for a host name.
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"urn:doorward:client:{name}")]
    return _make(
        folder,
        f"client-{name}",
        names,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        f"Doorward client {name}",
        now,
        days,
        renew,
    )


def _make(
    folder: Path, stem: str, names: list[x509.GeneralName], usage: x509.ObjectIdentifier, title: str, now: float, days: int,
    renew: bool,  # noqa: FBT001 - inner
) -> Made:  # fmt: skip
    if not 1 <= days <= 90:
        raise OperatorError("keys-days", "A certificate of this kind lives for 1 to 90 days.")
    at = datetime.datetime.fromtimestamp(now, datetime.UTC)
    cert_path, key_path = folder / f"{stem}.pem", folder / f"{stem}.key"
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            raise OperatorError(
                "local-authority-open", f"Others may look into {folder}; run chmod 700 {folder}."
            )
        ca, ca_key, ca_is_new = _authority(folder, at)
        known = None if renew or ca_is_new else _still_good(cert_path, key_path, ca, at)
        if known is None:
            key = ec.generate_private_key(ec.SECP256R1())
            known = _leaf(ca, ca_key, key, names, usage, title, at, days)
            _write(key_path, _pem_of(key), 0o600)
            _write(cert_path, known.public_bytes(Encoding.PEM), 0o644)
            return _made(folder, cert_path, key_path, known, ca_is_new=ca_is_new, leaf_is_new=True)
    except OSError as error:
        raise OperatorError(
            "local-authority-folder", f"{folder} cannot be used: {error.strerror}."
        ) from error
    return _made(folder, cert_path, key_path, known, ca_is_new=ca_is_new, leaf_is_new=False)


def _made(
    folder: Path, cert: Path, key: Path, leaf: x509.Certificate, *, ca_is_new: bool, leaf_is_new: bool
) -> Made:
    return Made(folder / "ca.pem", cert, key, ca_is_new, leaf_is_new, leaf.not_valid_after_utc.timestamp())


def _authority(
    folder: Path, at: datetime.datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, bool]:
    """The authority of this folder: as it is while it outlives a leaf, else a new one."""
    cert_path, key_path = folder / "ca.pem", folder / "ca.key"
    if cert_path.exists() and key_path.exists():
        if key_path.stat().st_mode & 0o077:
            raise OperatorError(
                "local-authority-open", f"Others may read {key_path}: make a new one, it is no secret now."
            )
        try:
            certificate = x509.load_pem_x509_certificate(cert_path.read_bytes())
            key = load_pem_private_key(key_path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise OperatorError(
                "local-authority-broken",
                f"{folder} holds an authority that cannot be read; move the folder away.",
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise OperatorError(
                "local-authority-broken", f"ca.pem and ca.key in {folder} do not belong together."
            )
        if certificate.not_valid_after_utc > at + _CA_REST:
            return certificate, key, False
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _new_authority(key, at)
    _write(key_path, _pem_of(key), 0o600)
    _write(cert_path, certificate.public_bytes(Encoding.PEM), 0o644)
    return certificate, key, True


def _new_authority(key: ec.EllipticCurvePrivateKey, at: datetime.datetime) -> x509.Certificate:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Doorward"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Doorward local authority {mint_handle(4)}"),
        ]
    )
    allowed: list[x509.GeneralName] = [x509.DNSName("localhost")]
    allowed += [x509.IPAddress(ipaddress.ip_network(one)) for one in _LOOPBACK]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _BACKDATE)
        .not_valid_after(at + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.NameConstraints(permitted_subtrees=allowed, excluded_subtrees=None), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _leaf(
    ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName], usage: x509.ObjectIdentifier, title: str, at: datetime.datetime, days: int,
) -> x509.Certificate:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _BACKDATE)
        .not_valid_after(at + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )


def _still_good(
    cert_path: Path, key_path: Path, ca: x509.Certificate, at: datetime.datetime
) -> x509.Certificate | None:
    """The leaf that is there, if it is this authority's, has its key, and has not lived two thirds of its life."""
    try:
        leaf = x509.load_pem_x509_certificate(cert_path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), password=None)
        leaf.verify_directly_issued_by(ca)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return None
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    due = leaf.not_valid_before_utc + life * _RENEW_AT
    return leaf if at < due and key.public_key() == leaf.public_key() else None


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never open for a moment."""
    aside = path.with_name(f".{path.name}.{mint_handle(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    aside.replace(path)
