"""Look at Doorward's own listener from outside: which versions of TLS it takes, what it shows, and what plain HTTP gets."""

from __future__ import annotations

import socket
import ssl

import msgspec

from doorward.adapters.tls_contexts import facts_of_der

_SECONDS = 3.0


class Seen(msgspec.Struct, frozen=True):
    """What a listener does. ``versions`` are those that it completes a handshake in."""

    versions: tuple[str, ...]
    serial: str = ""  # of the certificate that it shows
    plain: bool = False  # it answers plain HTTP with something else than 400


def look(host: str, port: int) -> Seen:
    """Connect a few times. Raises: OSError when nothing listens there."""
    versions, serial = [], ""
    for name, version in (("1.2", ssl.TLSVersion.TLSv1_2), ("1.3", ssl.TLSVersion.TLSv1_3)):
        found = _shake(host, port, version)
        if found is not None:
            versions.append(name)
            serial = facts_of_der(found).serial
    return Seen(tuple(versions), serial, _answers_plain(host, port))


def _shake(host: str, port: int, version: ssl.TLSVersion) -> bytes | None:
    """The certificate that the listener shows in this version; None when there is no handshake."""
    # This looks at what is shown and trusts nothing: whether others trust it is for their authorities to say.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    with socket.create_connection((host, port), _SECONDS) as plain:
        try:
            with context.wrap_socket(plain) as secured:
                return secured.getpeercert(binary_form=True)
        except (ssl.SSLError, ConnectionError):
            return None


def _answers_plain(host: str, port: int) -> bool:
    with socket.create_connection((host, port), _SECONDS) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: probe\r\n\r\n")
        try:
            said = plain.recv(64)
        except (ConnectionError, TimeoutError):
            return False
    return bool(said) and not said.startswith(b"HTTP/1.1 400 ")
