from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from doorward.adapters.local_authority import make_client_leaf, make_server_leaf, renew_where_due
from doorward.base.clock import SystemClock
from doorward.base.errors import OperatorError
from doorward.cli.main import USAGE, run

OPENSSL = shutil.which("openssl")
NOW = SystemClock().now()
DAY = 86_400.0


def greets(context: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    """Whether a client that asks for ``name`` and a server come to a handshake, over a real socket pair."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with context.wrap_socket(theirs, server_side=True) as way:
                way.sendall(b"ok")
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as way:
            return way.recv(2) == b"ok"
    except (ssl.SSLError, OSError):
        ours.close()
        return False
    finally:
        thread.join(5)


def server(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_loopback_is_trusted_by_every_name_it_has(tmp_path: Path) -> None:
    made = make_server_leaf(tmp_path / "data" / "tls", NOW)
    assert made.ca_is_new and made.leaf_is_new
    client = ssl.create_default_context(cafile=str(made.ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in ("localhost", "127.0.0.1", "::1"):
        assert greets(server(made.cert, made.key), client, name)
    assert not greets(server(made.cert, made.key), client, "example.com")
    assert not greets(server(made.cert, made.key), ssl.create_default_context(), "localhost")


def test_nobody_else_may_read_what_is_made(tmp_path: Path) -> None:
    make_server_leaf(tmp_path / "data" / "tls", NOW)
    make_client_leaf(tmp_path / "data" / "tls", "alice", NOW)
    for folder in (tmp_path / "data", tmp_path / "data" / "tls"):
        assert folder.stat().st_mode & 0o777 == 0o700
    keys = sorted(
        path.name for path in (tmp_path / "data" / "tls").iterdir() if path.stat().st_mode & 0o777 == 0o600
    )
    assert keys == ["ca.key", "client-alice.key", "gateway.key"]


@pytest.mark.parametrize("name", ["example.com", "localhost.example.com", "10.0.0.1"])
def test_what_the_authority_signs_beyond_loopback_nobody_trusts(tmp_path: Path, name: str) -> None:
    """Its key is stolen, say: trusting it must open no other site."""
    from tests.stand_ins.authority import Authority, Leaf

    folder = tmp_path / "tls"
    made = make_server_leaf(folder, NOW)
    thief = Authority.__new__(Authority)
    thief.folder = tmp_path
    ca = x509.load_pem_x509_certificate(made.ca.read_bytes())
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    thief._key, thief._name = key, ca.subject
    forged: Leaf = thief.issue("forged", hosts=(name,))
    client = ssl.create_default_context(cafile=str(made.ca))
    assert not greets(server(forged.cert_path, forged.key_path), client, name)
    # The same certificate passes where the authority has no limits: it is they that refuse it.
    free = (
        x509.CertificateBuilder()
        .subject_name(ca.subject).issuer_name(ca.subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(ca.not_valid_before_utc).not_valid_after(ca.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    open_client = ssl.create_default_context(cadata=free.public_bytes(serialization.Encoding.PEM).decode())
    assert greets(server(forged.cert_path, forged.key_path), open_client, name)


def test_a_client_certificate_is_for_clients_only(tmp_path: Path) -> None:
    made = make_server_leaf(tmp_path / "tls", NOW)
    mine = make_client_leaf(tmp_path / "tls", "alice", NOW)
    context = server(made.cert, made.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(made.ca)
    client = ssl.create_default_context(cafile=str(made.ca))
    assert not greets(context, client, "localhost")
    client.load_cert_chain(mine.cert, mine.key)
    assert greets(context, client, "localhost")
    assert not greets(server(mine.cert, mine.key), client, "localhost")


def test_a_leaf_is_kept_for_two_thirds_of_its_life_and_the_authority_for_longer(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    first = make_server_leaf(folder, NOW)
    before = first.cert.read_bytes()
    assert not make_server_leaf(folder, NOW + 19 * DAY).leaf_is_new
    assert first.cert.read_bytes() == before
    later = make_server_leaf(folder, NOW + 21 * DAY)
    assert later.leaf_is_new and not later.ca_is_new
    assert make_server_leaf(folder, NOW + 22 * DAY, renew=True).leaf_is_new
    last = make_server_leaf(folder, NOW + 300 * DAY)
    assert last.ca_is_new and last.leaf_is_new


def test_files_that_do_not_fit_are_made_anew_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    made = make_server_leaf(folder, NOW)
    made.key.write_bytes((folder / "ca.key").read_bytes())
    assert make_server_leaf(folder, NOW).leaf_is_new
    made.cert.write_bytes(b"x")
    assert make_server_leaf(folder, NOW).leaf_is_new
    (folder / "ca.key").write_bytes(made.key.read_bytes())
    with pytest.raises(OperatorError, match="do not belong together"):
        make_server_leaf(folder, NOW)
    (folder / "ca.key").chmod(0o644)
    with pytest.raises(OperatorError, match="Others may read"):
        make_server_leaf(folder, NOW)
    folder.chmod(0o755)
    with pytest.raises(OperatorError, match="chmod 700"):
        make_server_leaf(folder, NOW)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "ca", "gateway", "a b", "é", "x" * 65])
def test_a_client_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OperatorError):
        make_client_leaf(tmp_path / "tls", name, NOW)
    assert not (tmp_path / "tls").exists()


@pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command")
def test_openssl_sees_the_limits_and_holds_the_chain_for_good(tmp_path: Path) -> None:
    made = make_server_leaf(tmp_path / "tls", NOW)
    text = subprocess.run(
        [str(OPENSSL), "x509", "-in", str(made.ca), "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "X509v3 Name Constraints: critical" in text and "DNS:localhost" in text and "pathlen:0" in text
    done = subprocess.run(
        [str(OPENSSL), "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(made.ca), str(made.cert)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_says_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    assert run(["keys", "ca"]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "doorward-data" / "tls"
    assert (
        f'cert = "{folder}/gateway.pem"' in said and "NODE_EXTRA_CA_CERTS" in said and "PRIVATE" not in said
    )
    assert run(["keys", "ca", "--client", "alice"]) == 0
    assert f"--cert {folder}/client-alice.pem" in capsys.readouterr().out
    assert run(["keys", "ca", "--json", "--folder", str(folder)]) == 0
    assert '"made": false' in capsys.readouterr().out.replace('":false', '": false')
    assert run(["keys", "ca", "--days", "400"]) == USAGE


def test_doorward_itself_renews_a_leaf_and_never_the_authority(tmp_path: Path) -> None:
    made = make_server_leaf(tmp_path / "tls", NOW)
    authority = made.ca.read_bytes()
    assert not renew_where_due(made.cert, NOW + 5 * DAY)
    assert renew_where_due(made.cert, NOW + 25 * DAY)
    assert not renew_where_due(made.cert, NOW + 25 * DAY)
    with pytest.raises(OperatorError, match="keys ca"):
        renew_where_due(made.cert, NOW + 290 * DAY)
    assert made.ca.read_bytes() == authority
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "gateway.pem"
    other.write_bytes(made.cert.read_bytes())
    assert not renew_where_due(other, NOW + 25 * DAY)  # somebody else's business
    assert not renew_where_due(made.key, NOW)
