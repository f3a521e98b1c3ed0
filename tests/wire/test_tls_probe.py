"""What the posture sees of a listener: one that speaks TLS, one that speaks an older version too, one in the clear, none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from doorward.adapters.tls_contexts import check_pair
from doorward.adapters.tls_probe import Seen, look
from doorward.app.certificates import Holding
from doorward.app.tls_health import TlsHealth
from doorward.base.clock import SystemClock
from doorward.controls.keep_tls import KeepTls
from doorward.settings import Settings
from doorward.settings_load import load_bytes
from tests.stand_ins.authority import Authority

from .face_kit import face
from .test_tls_face import secured

pytestmark = pytest.mark.anyio


async def test_each_listener_is_seen_as_what_it_is(tmp_path: Path) -> None:
    async with secured(tmp_path) as one:
        seen = await asyncio.to_thread(look, "127.0.0.1", one.listener.port)
        assert (seen.versions, seen.plain) == (("1.3",), False) and seen.serial
    async with secured(tmp_path, min_version="1.2") as one:
        assert (await asyncio.to_thread(look, "127.0.0.1", one.listener.port)).versions == ("1.2", "1.3")
    async with face() as bench:
        seen = await asyncio.to_thread(look, "127.0.0.1", bench.listener.port)
        assert seen.versions == () and seen.plain
        port = bench.listener.port
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(look, "127.0.0.1", port)


def configured(folder: Path, tls: str, port: int) -> Settings:
    text = f'[gateway]\nlisten = "127.0.0.1:{port}"\ndata_dir = "{folder}/data"\n{tls}'
    return load_bytes(text.encode(), folder / "doorward.toml").settings


async def test_the_posture_fails_when_the_listener_is_not_what_the_settings_say(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.issue("held")
    facts = check_pair(leaf.pem, leaf.key_pem, "x", SystemClock().now())
    holding = Holding(facts={"gateway": facts})
    table = f'tls = {{ cert = "{leaf.cert_path}", key = {{ file = "{leaf.key_path}" }} }}'
    async with secured(tmp_path, authority=authority) as one:
        settings = configured(tmp_path, table, one.listener.port)
        health = TlsHealth()
        assert health.say(settings, holding, "")[0] == "unknown"
        await health.look(settings)
        state, why = health.say(settings, holding, "")
        assert state == "failing" and "another certificate" in why
        shown = await asyncio.to_thread(look, "127.0.0.1", one.listener.port)
        fits = Holding(facts={"gateway": msgspec.structs.replace(facts, serial=shown.serial)})
        assert health.say(settings, fits, "")[0] == "ok"
        assert health.say(settings, fits, "the key does not belong")[0] == "failing"
        over = Holding(facts={"gateway": msgspec.structs.replace(facts, not_after=1.0)})
        assert "run out" in health.say(settings, over, "")[1]
    async with secured(tmp_path, authority=authority, min_version="1.2") as one:
        health = TlsHealth()
        settings = configured(tmp_path, table, one.listener.port)
        await health.look(settings)
        assert "speaks TLS 1.2 and 1.3" in health.say(settings, fits, "")[1]
    async with face() as bench:
        health = TlsHealth()
        settings = configured(tmp_path, table, bench.listener.port)
        await health.look(settings)
        assert health.say(settings, fits, "") == ("failing", "the listener answers plain HTTP")
    health = TlsHealth()
    await health.look(settings)
    assert "cannot be reached" in health.say(settings, fits, "")[1]
    assert Seen(()).plain is False


def test_without_a_running_gateway_nothing_is_claimed() -> None:
    assert KeepTls().probe()[0] == "unknown"
    assert KeepTls(lambda: ("ok", "fine")).probe() == ("ok", "fine")
