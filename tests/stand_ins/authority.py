"""An authority of certificates for tests: good ones, expired ones, and those of strangers."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


class Leaf:
    """One certificate and its key, on disk as well."""

    def __init__(
        self, folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ):
        self.certificate = certificate
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.cert_path, self.key_path = folder / f"{name}.pem", folder / f"{name}.key"
        self.write(self.cert_path, self.key_path)

    def write(self, cert_path: Path, key_path: Path) -> None:
        """Put the pair where somebody looks for it."""
        cert_path.write_bytes(self.pem)
        key_path.touch(mode=0o600)
        key_path.write_bytes(self.key_pem)

    @property
    def serial(self) -> str:
        """As `openssl x509 -serial` and our pages write it."""
        return f"{self.certificate.serial_number:x}"

    @property
    def thumbprint(self) -> str:
        """x5t#S256 (RFC 8705 §3.1)."""
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()

    @property
    def pin(self) -> str:
        """The digest of the public key."""
        info = self.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return "sha256/" + base64.b64encode(hashlib.sha256(info).digest()).decode()


class Authority:
    """Signs what it is told to sign."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 365 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        self.path = folder / f"{name.replace(' ', '-')}.pem"
        self.path.write_bytes(self.pem)

    def issue(
        self,
        name: str = "server",
        *,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        client: bool = False,
        days: tuple[float, float] = (-1, 30),
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Leaf:
        """A certificate that is in force from ``days[0]`` to ``days[1]``, counted from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * _DAY)
            .not_valid_after(now + days[1] * _DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(self.folder, name, certificate, key)

    def client_context(self, leaf: Leaf | None = None) -> ssl.SSLContext:
        """A client that trusts this authority, and shows ``leaf``."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        if leaf is not None:
            context.load_cert_chain(leaf.cert_path, leaf.key_path)
        return context
