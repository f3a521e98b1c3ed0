"""Settings: what stands in a file is in force or refused with its key and line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.base.errors import OperatorError
from doorward.catalogue.server import SecretReference
from doorward.controls.order import ORDER, POSTURES
from doorward.policy.roles import EVERYTHING
from doorward.settings import (
    SLUGS,
    Settings,
    catalogue,
    change_of,
    check_hot_change,
    explain,
    flatten,
    general_key,
    load,
)
from doorward.settings_load import find_file, load_bytes, policy_texts, resolve
from doorward.settings_rules import LAB_MARK
from doorward.settings_words import FOREIGN_SENTENCES

HOME = Path(__file__).resolve().parents[2]
FILE = Path("/srv/doorward/doorward.toml")


def read(text: str) -> Settings:
    return load_bytes(text.encode(), FILE).settings


def refusal(text: str) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        read(text)
    return caught.value


def test_an_empty_file_is_the_local_default():
    settings = read("")
    assert settings.gateway.listen == "127.0.0.1:8808"
    assert settings.gateway.public_url == "http://127.0.0.1:8808"
    assert settings.gateway.data_dir == "/srv/doorward/doorward-data"
    assert settings.roles == {"user": EVERYTHING}
    assert settings.servers == {}


def test_the_public_url_follows_the_listener_unless_it_is_written():
    assert read('gateway.listen = "127.0.0.1:9001"').gateway.public_url == "http://127.0.0.1:9001"


def test_settings_survive_the_way_to_a_worker():
    settings = read(
        """
        [servers.time]
        command = ["python", "-c", '''two
        lines''']
        env = { TZ = "UTC", KEY = { file = "key" } }
        files = [{ path = "notes", write = true }]
        allow_requests = ["roots"]
        [servers.web]
        url = "https://mcp.example.com/mcp"
        credentials = { type = "header", prefix = "Bearer ", value = { env = "TOKEN" } }
        [limits.tool."time/now"]
        calls = 5
        [controls.limit-rate]
        mode = "report"
        """
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=Settings) == settings
    time = settings.servers["time"]
    assert time.env["KEY"] == SecretReference(file="/srv/doorward/key")
    assert time.files[0].path == "/srv/doorward/notes"
    assert time.name == "time"


def test_a_narrower_limit_takes_what_it_leaves_out_from_the_wide_one():
    settings = read(
        """
        [limits]
        calls = 7
        per_seconds = 3
        concurrent = 4
        [limits.principal.bob]
        calls = 9
        [limits.address]
        per_seconds = 1.5
        """
    )
    limits = settings.limits.as_limits()
    bob = limits.principal["bob"]
    assert (bob.calls, bob.per_seconds, bob.concurrent) == (9, 3.0, 4)
    assert limits.address is not None
    assert (limits.address.calls, limits.address.per_seconds, limits.address.concurrent) == (7, 1.5, 0)


SERVER = '[servers.a]\ncommand = ["x"]\n'
WEB = '[servers.a]\nurl = "https://h/mcp"\n'

ISSUER = "[identity]\nmode = 'external'\n[[identity.issuers]]\n"
REFUSED = [
    # file, code, words that the answer holds
    ("[gateway]\nlisen = 1", "settings-unknown-key", ["line 2", "gateway.lisen", "gateway.listen"]),
    ("[gatway]\n", "settings-unknown-key", ["line 1", "gatway", "gateway"]),
    ("zzzz = 1", "settings-unknown-key", ["line 1", "zzzz", "known here"]),
    (SERVER + "comand = []", "settings-unknown-key", ["line 3", "servers.a.comand", "servers.a.command"]),
    (SERVER + 'name = "b"', "settings-unknown-key", ["line 3", "servers.a.name"]),
    ("[controls.chek-head]\nmode = 'off'", "settings-unknown-key", ["line 1", "controls.check-head"]),
    ("[[identity.users]]\nname = 'a'\nrols = []", "settings-unknown-key", ["line 3", "users[0].roles"]),
    ("[gateway]\n\nworkers = 'two'", "settings-invalid", ["line 3", "gateway.workers", "whole number"]),
    ("[gateway]\nworkers = 0", "settings-invalid", ["line 2", ">= 1"]),
    ("[gateway]\nworkers = true", "settings-invalid", ["line 2", "whole number"]),
    ("[gateway]\nprofile = 'lokal'", "settings-invalid", ["line 2", "local, team"]),
    ("[gateway]\nhosts = 'a'", "settings-invalid", ["line 2", "list"]),
    ("[gateway]\nhosts = ['a', 3]", "settings-invalid", ["line 2", "gateway.hosts[1]", "text"]),
    ("gateway = 3", "settings-invalid", ["line 1", "table"]),
    ("[gateway]\nlisten = 'nowhere'", "settings-invalid", ["line 2", "gateway.listen"]),
    ("[gateway]\nlisten = '127.0.0.1:0'", "settings-invalid", ["line 2"]),
    ("[gateway]\nlisten = '127.0.0.1:99999'", "settings-invalid", ["line 2"]),
    ("[admin]\nlisten = '127.0.0.1:8808'", "settings-invalid", ["line 2", "admin.listen", "same"]),
    ("[gateway]\npublic_url = 'http://127.0.0.1:8808/'", "settings-invalid", ["line 2", "slash"]),
    ("[gateway]\npublic_url = 'https://a.example?x'", "settings-invalid", ["line 2", "query"]),
    ("[gateway]\npublic_url = 'http://a.example'", "settings-invalid", ["line 2", "https"]),
    ("[gateway]\npublic_url = 'https://u:p@a.example'", "settings-invalid", ["line 2"]),
    ("[gateway]\npublic_url = 'ftp://a.example'", "settings-invalid", ["line 2"]),
    ("[gateway]\nlisten = '0.0.0.0:8808'", "settings-invalid", ["public_url"]),
    ("[gateway]\nstate = 'postgresql://u:hunter2@h/d'", "settings-invalid", ["line 2", "secret reference"]),
    ("[gateway]\nstate = { env = 'DB' }", "settings-not-available", ["line 2", "gateway.state"]),
    ("[gateway]\ncache = { env = 'DB' }", "settings-not-available", ["line 2", "gateway.cache"]),
    ("[gateway.tls]\ncert = 'a'", "settings-invalid", ["line 1", "gateway.tls.key", "required"]),
    ("[gateway.tls]\nkey = { file = 'k' }", "settings-invalid", ["line 1", "gateway.tls.cert", "required"]),
    ("[gateway.tls]\ncert = 'a'\nkey = 'b'", "settings-invalid", ["line 3", "secret reference"]),
    ("[gateway.tls]\ncert = 'a'\nkey = { file = 'k' }\nmin_version = '1.1'", "settings-invalid", ["line 4", "1.2, 1.3"]),
    ("[gateway.tls]\ncert = 'a'\nkey = { file = 'k' }\nclient_certificate = 'required'", "settings-invalid", ["client_ca"]),
    ("[gateway]\npublic_url = 'http://127.0.0.1:8808'\ntls = { cert = 'a', key = { file = 'k' } }", "settings-invalid", ["line 2", "https"]),
    ("[gateway]\nlisten = '192.0.2.1:80'\npublic_url = 'https://h'", "settings-floor", ["line 2", "plain HTTP", "gateway.tls"]),
    ("[admin]\nlisten = '192.0.2.1:80'", "settings-floor", ["line 2", "admin.listen", "admin.tls"]),
    ("[gateway]\nterminator = 'a proxy'", "settings-floor", ["line 2", "team and above"]),
    ("[gateway]\nprofile = 'team'\nlisten = '192.0.2.1:80'\npublic_url = 'https://h'", "settings-floor", ["line 3", "terminator"]),
    ("[gateway]\nprofile = 'team'\nlisten = '192.0.2.1:80'\npublic_url = 'https://h'\nterminator = 'a proxy'", "settings-not-available", ["line 2"]),
    ("[gateway]\nprofile = 'team'\nlisten = '192.0.2.1:80'\npublic_url = 'https://h'\nterminator = 'a proxy'\n[admin]\nlisten = '192.0.2.1:81'", "settings-floor", ["admin.listen"]),
    ("[gateway]\nprofile = 'production'\nlisten = '192.0.2.1:80'\npublic_url = 'https://h'", "settings-floor", ["line 3", "plain HTTP"]),
    ("[gateway]\ntls = { cert = 'a', key = { file = 'k' }, client_ca = 'c', min_version = '1.2' }", "settings-floor", ["line 2", "1.3"]),
    ("[admin]\ntls = { cert = 'a', key = { file = 'k' }, client_ca = 'c' }", "settings-not-available", ["admin.tls.client_ca"]),
    ("[controls.keep-tls]\nmode = 'off'", "settings-floor", ["keep-tls"]),
    ("identity.mode = 'broker'", "settings-invalid", ["line 1", "identity.broker.client_id"]),
    ("[identity.broker]\nissuer = 'https://i.example'", "settings-invalid", ["line 1", "broker"]),
    ("[identity]\nmode = 'broker'\n[identity.broker]\nclient_id = 'd'\nissuer = 'i'", "settings-invalid", ["line 5", "issuer"]),
    ("[[identity.clients]]\nid = 'c'", "settings-invalid", ["line 1", "redirect_uris"]),
    ("[[identity.clients]]\nid = 'c'\nredirect_uris = ['http://evil.example/cb']", "settings-invalid", ["line 3", "http to another host"]),
    ("[[identity.clients]]\nid = 'c'\ngrants = ['client_credentials']", "settings-invalid", ["line 1", "secret"]),
    ("[[identity.clients]]\nid = 'https://c.example/d'\nredirect_uris = ['https://c.example/cb']", "settings-invalid", ["line 2", "id"]),
    ("[[identity.clients]]\nid = 'c'\nsecret = 'literal'", "settings-invalid", ["line 3", "secret"]),
    ("[[identity.clients]]\nid = 'c'\ngrants = ['jwt_bearer']", "settings-invalid", ["line 3", "broker"]),
    ("[[identity.clients]]\nid = 'c'\ngrants = ['password']", "settings-invalid", ["line 3", "grants"]),
    ("[[identity.users]]\nname = 'client:x'", "settings-invalid", ["line 2", "name"]),
    ("[identity.registration]\nschemes = ['javascript']", "settings-invalid", ["line 2", "schemes"]),
    ("[controls.ask-consent]\nmode = 'off'", "settings-floor", ["line 2", "ask-consent"]),
    ("identity.mode = 'external'", "settings-invalid", ["line 1", "identity.issuers"]),
    ("[[identity.issuers]]\nissuer = 'https://a.example'", "settings-invalid", ["identity.issuers", "external"]),
    (ISSUER + "issuer = 'x'", "settings-invalid", ["line 4", "identity.issuers[0].issuer"]),
    (ISSUER + "issuer = 'http://a.example'", "settings-invalid", ["line 4", "https"]),
    (ISSUER + "issuer = 'https://10.0.0.1'", "settings-invalid", ["line 4", "network.allow"]),
    (ISSUER + "issuer = 'https://a.example/?x'", "settings-invalid", ["line 4", "query"]),
    (ISSUER + "issuer = 'https://a.example'\njwks_uri = 'http://a.example/k'", "settings-invalid", ["line 5", "jwks_uri"]),
    (ISSUER + "issuer = 'https://a.example'\nalgorithms = ['HS256']", "settings-invalid", ["line 5", "algorithms"]),
    (ISSUER + "issuer = 'https://a.example'\nalgorithms = ['none']", "settings-invalid", ["line 5", "algorithms"]),
    (ISSUER + "issuer = 'https://a.example'\nalgorithms = []", "settings-invalid", ["line 5", "algorithms"]),
    (ISSUER + "issuer = 'https://a.example'\naudiences = { tme = 'x' }", "settings-invalid", ["line 5", "tme"]),
    (ISSUER + "issuer = 'https://a.example'\nmax_lifetime_seconds = 999999", "settings-invalid", ["line 5"]),
    (ISSUER + "issuer = 'https://a.example'\nprofile = 'entraid'", "settings-invalid", ["line 5", "entra"]),
    (ISSUER + "issuer = 'https://a.example'\n[[identity.issuers]]\nissuer = 'https://a.example'", "settings-invalid", ["line 6", "above"]),
    (ISSUER + "issuer = 'https://a.example'\nintrospection = { client_id = 'x', client_secret = 'hunter2' }", "settings-invalid", ["line 5", "{ file = "]),
    (ISSUER + "issuer = 'https://a.example'\nintrospection = { client_id = 'x' }", "settings-invalid", ["line 5", "client_secret"]),
    (ISSUER + "issuer = 'https://a.example'\n[[identity.users]]\nname = 'alice'", "settings-invalid", ["users", "embedded"]),
    ("identity.mode = 'off'\n[gateway]\nlisten = '192.0.2.1:80'\npublic_url = 'https://h'", "settings-floor", ["line 1", "identity.mode"]),
    ("[[identity.users]]\nroles = []", "settings-invalid", ["line 1", "users[0].name", "required"]),
    ("[[identity.users]]\nname = 'a'\n[[identity.users]]\nname = 'a'", "settings-invalid", ["line 4"]),
    ("[[identity.users]]\nname = 'a'\nroles = ['usr']", "settings-invalid", ["line 3", "'user'"]),
    ("[servers.mcp]\ncommand = ['x']", "settings-invalid", ["line 1", "reserved"]),
    ("[servers.Time]\ncommand = ['x']", "settings-invalid", ["line 1", "servers.Time"]),
    ("[servers.a__b]\ncommand = ['x']", "settings-invalid", ["line 1"]),
    (f"[servers.a{'b' * 24}]\ncommand = ['x']", "settings-invalid", ["line 1"]),
    ("[servers.a]\n", "settings-invalid", ["line 1", "either command or url"]),
    (SERVER + "url = 'https://h/'", "settings-invalid", ["line 1", "both"]),
    ("[servers.a]\nurl = 'http://mcp.example.com/mcp'", "settings-invalid", ["line 2", "https"]),
    ("[servers.a]\nurl = 'https://u:p@h/mcp'", "settings-invalid", ["line 2", "servers.a.url"]),
    (WEB + "sandbox = 'none'", "settings-invalid", ["line 3", "servers.a.sandbox"]),
    (WEB + "credentials = { type = 'token-exchange' }", "settings-invalid", ["line 3", "issuer"]),
    (WEB + "credentials = { type = 'client-credentials', issuer = 'https://a.b', client_id = 'x' }", "settings-invalid", ["client_secret"]),
    (WEB + "credentials = { type = 'client-credentials', issuer = 'http://a.b', client_id = 'x' }", "settings-invalid", ["https"]),
    (WEB + "credentials = { type = 'client-credentials', client_secret = 'hunter2' }", "settings-invalid", ["client_secret", "{ env = "]),
    (WEB + "credentials = { type = 'none', client_id = 'x' }", "settings-invalid", ["client_id", "needs type"]),
    (WEB + "credentials = { type = 'oauth', audience = 'x' }", "settings-invalid", ["audience", "needs type"]),
    (WEB + "credentials = { type = 'oauth', authorize_url = 'https://a.b' }", "settings-invalid", ["authorize_url"]),
    (WEB + "credentials = { type = 'on-behalf-of', token_url = 'https://a.b', client_id = 'x', client_secret = { env = 'A' } }",
     "settings-invalid", ["scopes"]),
    (WEB + "credentials = { type = 'header' }", "settings-invalid", ["line 3", "secret reference"]),
    (WEB + "credentials = { type = 'header', value = 'hunter2' }", "settings-invalid", ["line 3", "{ env = "]),
    (WEB + "credentials = { type = 'header', name = 'Host', value = { env = 'A' } }", "settings-invalid", ["name"]),
    (WEB + "credentials = { type = 'header', value = { env = 'A', file = 'B' } }", "settings-invalid", ["one of"]),
    (WEB + "tls = { pin = ['sha1/x'] }", "settings-invalid", ["line 3", "servers.a.tls.pin[0]"]),
    (WEB + "tls = { pin = ['sha256/AAAA'] }", "settings-invalid", ["32 bytes"]),
    (WEB + "tls = { pin = ['sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB='] }", "settings-invalid", ["servers.a.tls.pin[0]"]),
    (WEB + "tls = { mode = 'report' }", "settings-invalid", ["there is no pin"]),
    (WEB + "tls = { client_cert = 'c' }", "settings-invalid", ["go together"]),
    (WEB + "tls = { pins = [] }", "settings-unknown-key", ["servers.a.tls.pin"]),
    ("[servers.a]\nurl = 'http://127.0.0.1:1/mcp'\ntls = { ca_file = 'c' }", "settings-invalid", ["https"]),
    (SERVER + "tls = { ca_file = 'c' }", "settings-invalid", ["https"]),
    (WEB + "credentials = { type = 'header', value = { vault = 'A' } }", "settings-invalid", ["vault", "mount/path#field"]),
    (WEB + "credentials = { type = 'header', value = { vault = 'a/b#c' } }", "settings-invalid", ["secrets.vault", "servers"]),
    (WEB + "credentials = { type = 'header', value = { keyvault = 'abc/b' } }", "settings-invalid", ["secrets.keyvault", "servers"]),
    ("[secrets.vault]\nurl = 'http://vault.example'", "settings-invalid", ["secrets.vault.url"]),
    ("[secrets.vault]\nurl = 'https://vault.example'", "settings-invalid", ["secrets.vault.token"]),
    ("[secrets.vault]\nurl = 'https://vault.example'\ntoken = 'hunter2'", "settings-invalid", ["secrets.vault.token", "{ env = "]),
    ("[secrets.vault]\nurl = 'https://v.example'\ntoken = { vault = 'a/b#c' }", "settings-invalid", ["lies in none"]),
    ("[secrets.keyvault]\ntenant = 'x'", "settings-invalid", ["secrets.keyvault", "client_id"]),
    (SERVER + "env = { K = 1 }", "settings-invalid", ["line 3", "servers.a.env.K"]),
    (SERVER + "env = { 'a=b' = '1' }", "settings-invalid", ["line 3"]),
    (SERVER + "env = { K = { keyring = 'x' } }", "settings-invalid", ["line 3", "keyring"]),
    (SERVER + "egress = ['h:443']", "settings-not-available", ["line 3", "servers.a.egress"]),
    (SERVER + "trust = 'signed'", "settings-not-available", ["line 3", "signed"]),
    (SERVER + "trust = 'blind'", "settings-invalid", ["line 3", "trust"]),
    (SERVER + "on_change = 'shrug'", "settings-invalid", ["line 3", "on_change"]),
    (SERVER + "package = 'mcp-server-time'", "settings-invalid", ["line 3", "pypi:NAME==VERSION"]),
    (SERVER + "start_timeout_seconds = 0", "settings-invalid", ["line 3"]),
    (SERVER + "allow_requests = ['everything']", "settings-invalid", ["line 3", "sampling"]),
    ("[network]\nallow = ['127.0.0.1']", "settings-invalid", ["line 2", "network.allow[0]", "host:port"]),
    ("[network]\nallow = ['a.example:443', '169.254.169.254:80']", "settings-invalid", ["line 2", "network.allow[1]"]),
    ("[limits.server.tme]\ncalls = 1\n[servers.time]\ncommand = ['x']", "settings-invalid", ["line 1", "'time'"]),
    ("[limits.tool.now]\ncalls = 1", "settings-invalid", ["line 1", "server/tool"]),
    ("[limits]\nper_seconds = nan", "settings-invalid", ["line 2", "limits.per_seconds"]),
    ("[limits]\ncalls = 100001", "settings-invalid", ["line 2", "100000"]),
    ("[controls.check-head]\nmode = 'off'", "settings-floor", ["line 2", "check-head"]),
    ("[controls.check-token]\nmode = 'report'", "settings-floor", ["line 2", "check-token"]),
    ("[controls.keep-ledger]\nmode = 'off'", "settings-floor", ["line 2", "keep-ledger"]),
    ("gateway.profile = 'lab'", "settings-floor", ["line 1", "DOORWARD_LAB"]),
    ("a = = 1", "settings-invalid", ["line 1", "TOML"]),
    ("[gateway]\n[gateway]", "settings-invalid", ["line 2"]),
    ("a = " + "[" * 5000, "settings-invalid", ["TOML"]),
    ("a = " + "9" * 5000, "settings-invalid", ["TOML"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "words"), REFUSED, ids=lambda one: str(one)[:50])
def test_a_bad_setting_is_refused_with_its_key_and_line(text, code, words, monkeypatch):
    monkeypatch.delenv("DOORWARD_LAB", raising=False)
    error = refusal(text)
    assert error.code == code, error.tell
    for word in words:
        assert word in error.tell, error.tell
    assert "hunter2" not in error.tell


PROFILES = ["team", "production", "regulated"]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_whose_promises_cannot_be_kept_does_not_start(profile):
    error = refusal(f"gateway.profile = '{profile}'\ngateway.public_url = 'https://a.example'")
    assert error.code == "settings-not-available"
    assert "gateway.profile" in error.tell
    assert profile in error.tell


@pytest.mark.parametrize("profile", PROFILES)
def test_strict_profiles_want_a_review_of_definitions(profile):
    head = f"gateway.profile = '{profile}'\ngateway.public_url = 'https://a.example'\n"
    assert "gateway.profile" in refusal(head + SERVER).tell  # and nothing about trust
    assert "gateway.profile" in refusal(head + SERVER + "trust = 'off'").tell


@pytest.mark.parametrize("profile", ["production", "regulated"])
@pytest.mark.parametrize(
    "weak",
    [
        SERVER + "sandbox = 'none'",
        SERVER + "trust = 'off'\nenv = { K = { env = 'K' } }",
        "[audit]\ndurability = 'before-answer'",
        "[identity]\nmode = 'off'",
    ],
)
def test_hard_profiles_name_what_weakens_them(profile, weak):
    head = f"gateway.profile = '{profile}'\ngateway.public_url = 'https://a.example'\n"
    assert refusal(head + weak).code == "settings-floor"


@pytest.mark.parametrize("profile", ["production", "regulated"])
def test_strict_profiles_have_no_embedded_accounts_unless_they_are_allowed_by_name(profile):
    head = f"gateway.profile = '{profile}'\ngateway.public_url = 'https://a.example'\n"
    users = "[[identity.users]]\nname = 'alice'\n"
    refused = refusal(head + users)
    assert refused.code == "settings-floor"
    assert "embedded_accounts_in" in refused.tell
    other = "regulated" if profile == "production" else "production"
    assert refusal(f"{head}[identity]\nembedded_accounts_in = ['{other}']\n{users}").code == "settings-floor"
    allowed = refusal(f"{head}[identity]\nembedded_accounts_in = ['{profile}']\n{users}")
    assert allowed.code == "settings-not-available"  # what is refused now is the rest of the profile


def test_controls_above_the_floor_may_report_or_be_off_anywhere():
    settings = read("[controls.limit-rate]\nmode = 'off'\n[controls.ask-policy]\nmode = 'report'")
    assert settings.controls["limit-rate"].mode == "off"


def test_trust_that_is_left_out_is_first_use_in_profile_local():
    assert read(SERVER).servers["a"].trust == "first-use"
    assert read(SERVER + "trust = 'review'\non_change = 'keep'").servers["a"].trust == "review"


def test_the_lab_needs_its_variable_loopback_and_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DOORWARD_LAB", "1")
    file = tmp_path / "doorward.toml"
    file.write_text("[gateway]\nprofile = 'lab'\ndata_dir = 'data'\n[controls.check-head]\nmode = 'off'\n")
    assert load(file).settings.controls["check-head"].mode == "off"
    (tmp_path / "data" / "ledger").mkdir()
    assert load(file).settings.gateway.profile == "lab"  # its own folder stays its own
    (tmp_path / "data" / LAB_MARK).unlink()
    with pytest.raises(OperatorError, match="settings-floor") as caught:
        load(file)
    assert "line 3" in caught.value.tell
    file.write_text("[gateway]\nprofile = 'lab'\nlisten = '0.0.0.0:1'\npublic_url = 'http://127.0.0.1:1'\n")
    with pytest.raises(OperatorError, match="settings-floor"):
        load(file)


def test_the_list_of_slugs_is_that_of_the_controls():
    assert {one.slug: one.floor for one in (*ORDER, *POSTURES)} == SLUGS


def test_every_setting_has_a_sentence():
    for key, _kind, _default, sentence in catalogue():
        assert sentence.endswith("."), key
    known = {key for key, *_ in catalogue()} | set(FOREIGN_SENTENCES)  # of tables that may be absent
    settings = read(
        SERVER + "files = [{ path = 'a' }]\nenv = { K = 'v' }\n[limits.address]\n[limits.tool.'a/b.c']\n"
        "[[identity.users]]\nname = 'x'\n[gateway.tls]\ncert = 'c'\nkey = { file = 'k' }\n"
        "[admin.tls]\ncert = 'c'\nkey = { file = 'k' }\n"
        "[[identity.clients]]\nid = 'c'\nredirect_uris = ['https://c.example/cb']\n"
        "[[alerts.webhooks]]\nurl = 'https://h.example'\n"
        f"[[secrets.honeytokens]]\nname = 'b'\nsha256 = '{'0' * 64}'\n"
        "[servers.b]\nurl = 'https://h/mcp'\ntls = { client_cert = 'c', client_key = { file = 'k' } }\n"
    )
    external = read(ISSUER + "issuer = 'https://a.example'\naudiences = { mcp = 'x' }\nclients = ['a']")
    for key in [*flatten(settings), *flatten(external)]:
        if general_key(key) in FOREIGN_SENTENCES:
            continue
        assert general_key(key) in known or general_key(key).endswith("files"), key


def test_explain_says_where_each_value_came_from():
    loaded = load_bytes(b"[gateway]\nworkers = 2\n" + SERVER.encode(), FILE)
    rows = {row.key: row for row in explain(loaded.settings, loaded.origins)}
    assert rows["gateway.workers"].source == "line 2"
    assert rows["gateway.listen"].source == "default"
    assert rows["roles.user.tools"].source == "profile"
    assert rows["servers.a.command"].value == ["x"]
    assert all(row.sentence for row in rows.values())


def test_a_change_is_named_and_one_that_needs_a_restart_is_refused():
    old = read(SERVER)
    new = read(SERVER + "[servers.b]\ncommand = ['y']\n[limits]\ncalls = 5")
    assert "limits.calls" in check_hot_change(old, new)
    assert "servers.b.command" in change_of(old, new)
    assert change_of(old, read(SERVER)) == []
    with pytest.raises(OperatorError, match="settings-restart") as caught:
        check_hot_change(old, read(SERVER + "[gateway]\nworkers = 3"))
    assert "gateway.workers" in caught.value.tell


def test_the_file_is_looked_for_here_and_then_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    with pytest.raises(OperatorError, match="settings-missing"):
        find_file(None)
    own = tmp_path / "conf" / "doorward" / "doorward.toml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_file(None) == own
    Path("doorward.toml").touch()
    assert find_file(None) == Path("doorward.toml")


def test_policy_files_are_found_by_pattern(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.cedar").write_text("permit(principal, action, resource);")
    file = tmp_path / "doorward.toml"
    file.write_text("[policy]\nfiles = ['p/*.cedar']")
    assert list(policy_texts(load(file).settings)) == [str(tmp_path / "p" / "a.cedar")]
    file.write_text("[policy]\nfiles = ['q/*.cedar']")
    with pytest.raises(OperatorError, match="policy-missing"):
        policy_texts(load(file).settings)


def test_a_secret_comes_from_the_environment_or_a_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "s")
    assert resolve(SecretReference(env="A_SECRET")).reveal() == b"s"
    monkeypatch.delenv("A_SECRET")
    with pytest.raises(OperatorError, match="secret-missing"):
        resolve(SecretReference(env="A_SECRET"))
    file = tmp_path / "key"
    file.write_text("t\n")
    file.chmod(0o600)
    assert resolve(SecretReference(file="key"), tmp_path).reveal() == b"t"
    file.chmod(0o644)
    with pytest.raises(OperatorError, match="secret-open"):
        resolve(SecretReference(file="key"), tmp_path)
    with pytest.raises(OperatorError, match="secret-missing"):
        resolve(SecretReference(file="nothing"), tmp_path)


def test_the_guide_is_current():
    command = [sys.executable, "docs/make_settings.py", "--check"]
    env = {**os.environ, "PYTHONPATH": str(HOME / "src")}
    done = subprocess.run(command, cwd=HOME, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


_WORDS = [
    "gateway", "servers", "identity", "users", "limits", "tool", "controls", "check-head", "mode", "listen",
    "public_url", "url", "command", "env", "credentials", "value", "type", "trust", "name", "roles", "profile",
    "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\n", '"', "'", '"""', "#", " ", "1", "-1", "true", "nan",
    "1979-05-27", '"http://[::1"', '"x"', "'local'", "0x1f", "\\", "\u00e9", '"127.0.0.1:1"',
]  # fmt: skip
_lines = st.builds(
    lambda table, key, value: f"[{table}]\n{key} = {value}\n",
    st.sampled_from(["gateway", "servers.a", "identity", "limits.tool.x", "limits", "audit", "policy", "roles.u"]),
    st.sampled_from(_WORDS[:21]) | st.sampled_from([key.rpartition(".")[2] for key, *_ in catalogue()]),
    st.sampled_from(['"x"', '"http://[::1"', '"127.0.0.1:\u0661"', "[]", "[1]", "{}", "1", "1e400", "true", "[{}]", '{ env = "A" }', '"\\u0000"', "07:32:00"]),
)  # fmt: skip


@given(
    st.lists(st.sampled_from(_WORDS), max_size=25).map("".join) | st.lists(_lines, max_size=3).map("".join)
)
def test_no_text_raises_anything_but_a_clear_refusal(text):
    try:
        load_bytes(text.encode(), FILE)
    except OperatorError as error:
        assert error.code.startswith("settings-")
        assert FILE.name in error.tell


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_clear_refusal(content):
    try:
        load_bytes(content, FILE)
    except OperatorError as error:
        assert error.code.startswith("settings-")


_CANARY = "canary-7f3e9a-1c"
_GH = "ghp_" + "a1B2" * 9


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (f"command = ['x']\nenv = {{ API_TOKEN = '{_CANARY}' }}", "servers.a.env.API_TOKEN"),
        (f"command = ['x']\nenv = {{ db_password = '{_CANARY}' }}", "servers.a.env.db_password"),
        (f"command = ['x']\nenv = {{ WHAT = '{_GH}' }}", "servers.a.env.WHAT"),
        (f"command = ['x', '--api-key={_CANARY}']", "servers.a.command[1]"),
        (f"command = ['x', '--token', '{_CANARY}']", "servers.a.command[2]"),
        (f"command = ['x', '{_GH}']", "servers.a.command[1]"),
        (f"url = 'https://x.example/mcp?api_key={_CANARY}'", "servers.a.url"),
        (f"url = 'https://u:{_CANARY}@x.example/mcp'", "servers.a.url"),
        (f"url = 'https://x.example/mcp'\ncredentials = {{ type = 'header', value = '{_CANARY}' }}", "servers.a.credentials.value"),
        (
            f"url = 'https://x.example/mcp'\ncredentials = {{ type = 'header', prefix = '{_GH}', value = {{ env = 'A' }} }}",
            "servers.a.credentials.prefix",
        ),
    ],
)  # fmt: skip
def test_a_literal_secret_is_refused_by_its_key_and_not_repeated(
    tmp_path: Path, table: str, key: str
) -> None:
    file = tmp_path / "doorward.toml"
    file.write_text(f"[servers.a]\n{table}\n")
    with pytest.raises(OperatorError) as caught:
        load(file)
    assert key in caught.value.tell
    assert "line" in caught.value.tell
    for secret in (_CANARY, _GH):
        assert secret not in caught.value.tell + caught.value.detail


@pytest.mark.parametrize(
    "table",
    [
        "command = ['x']\nenv = { TZ = 'Europe/Amsterdam', MAX_TOKENS = '4096', TOKEN = '', USE_TOKEN = 'true' }",
        "command = ['x', '--token-file', '/run/secrets/token']\nenv = { API_KEY = '/run/secrets/key' }",
        "command = ['x', '--secret', 'off', 'tokenizer']",
        "url = 'https://x.example/mcp?page=keyboard-layout'",
    ],
)
def test_plain_settings_are_no_secrets(tmp_path: Path, table: str) -> None:
    file = tmp_path / "doorward.toml"
    file.write_text(f"[servers.a]\n{table}\n")
    load(file)
