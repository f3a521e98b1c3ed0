"""The client for URLs of others, on real sockets: pinned addresses, rebinding names, redirects, TLS and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from doorward.adapters.guarded_http import GuardedHttp
from doorward.base.addresses import NetworkRules
from doorward.base.errors import DoorwardError, OperatorError, UpstreamError

from .tls_kit import Authority, RawServer

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}"


class Names:
    """A resolver whose answers a test sets; each list is given once, the last for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        given = self.answers.get(host)
        if given is None:
            raise OSError("no such name")
        return given.pop(0) if len(given) > 1 else given[0]


def client(names: Names, *allow: str, plain: bool = False) -> GuardedHttp:
    return GuardedHttp(NetworkRules.of(allow, plain_loopback=plain), resolve=names)


async def code_of(asking: object) -> str:
    with pytest.raises(DoorwardError) as caught:
        await asking  # type: ignore[misc]
    return caught.value.code


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def idp(authority: Authority) -> AsyncIterator[RawServer]:
    server = await RawServer(lambda head: OK).start(authority.server("idp.test"))
    yield server
    await server.stop()


async def test_an_answer_comes_over_tls_from_the_address_that_was_judged(
    idp: RawServer, authority: Authority
) -> None:
    # The second answer would lead elsewhere: nobody asks for it.
    names = Names(idp_test=[["127.0.0.1"], ["10.255.255.1"]])
    got = await client(names, f"idp.test:{idp.port}").get(
        f"https://idp.test:{idp.port}/a?b=c", ca_file=str(authority.file)
    )
    assert (got.status, got.body, got.media_type) == (200, b"{}", "application/json")
    assert got.url == f"https://idp.test:{idp.port}/a?b=c"
    assert names.asked == ["idp.test"]
    head = idp.heads[0].decode()
    assert head.startswith(f"GET /a?b=c HTTP/1.1\r\nHost: idp.test:{idp.port}\r\n")
    assert "\r\nAccept: application/json\r\n" in head or "\r\naccept: application/json\r\n" in head
    assert "cookie" not in head.lower()


async def test_a_post_carries_its_fields_and_body(idp: RawServer, authority: Authority) -> None:
    asking = client(Names(idp_test=[["127.0.0.1"]]), f"idp.test:{idp.port}").post(
        f"https://idp.test:{idp.port}/introspect",
        [("Content-Type", "text/plain")],
        b"token=x",
        ca_file=str(authority.file),
    )
    assert (await asking).status == 200
    assert idp.bodies == [b"token=x"]
    with pytest.raises(ValueError, match="connection"):
        await client(Names(), f"127.0.0.1:{idp.port}").post(
            f"https://127.0.0.1:{idp.port}/", [("Host", "a")], b""
        )


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"], ["::1"], ["169.254.169.254"], ["10.0.0.1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"], ["fe80::1%lo"],
        ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["0.0.0.0"], ["::"], ["2002:7f00:1::"], ["fd00:ec2::254"],
    ],
    ids=str,
)  # fmt: skip
async def test_a_name_that_leads_inside_is_refused_and_nothing_is_connected(
    answer: list[str], idp: RawServer, authority: Authority
) -> None:
    closed = client(Names(evil_test=[answer]))
    url = f"https://evil.test:{idp.port}/"
    assert await code_of(closed.get(url, ca_file=str(authority.file))) == "fetch-refused"
    assert await code_of(closed.post(url, [], b"", ca_file=str(authority.file))) == "fetch-refused"
    assert idp.connections == 0


async def test_a_name_that_rebinds_between_two_requests_is_refused_the_second_time(
    idp: RawServer, authority: Authority
) -> None:
    names = Names(idp_test=[["127.0.0.1"], ["169.254.169.254"]])
    asker = client(names, f"idp.test:{idp.port}")
    assert (await asker.get(f"https://idp.test:{idp.port}/", ca_file=str(authority.file))).status == 200
    assert (
        await code_of(asker.get(f"https://idp.test:{idp.port}/", ca_file=str(authority.file)))
        == "fetch-refused"
    )


def _to(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers_unless_asked_for(
    status: int, idp: RawServer, authority: Authority
) -> None:
    idp.reply = lambda head: OK if b"GET /there" in head else _to("/there", status)
    asker = client(Names(idp_test=[["127.0.0.1"]]), f"idp.test:{idp.port}")
    url = f"https://idp.test:{idp.port}/"
    assert (await asker.get(url, ca_file=str(authority.file))).status == status
    assert (await asker.post(url, [], b"x", ca_file=str(authority.file))).status == status
    got = await asker.get(url, ca_file=str(authority.file), redirects=1)
    assert (got.status, got.url) == (200, url + "there")


@pytest.mark.parametrize(
    "location",
    ["https://127.0.0.1/", "http://idp.test/", "https://169.254.169.254/latest", "//10.0.0.1/", "https://[::1]/", "https://evil.test/",
     "file:///etc/passwd", "https://u@idp.test/", "https://127.1/", "https://idp.test:22/", "/\\evil.test/", "https://[/"],
)  # fmt: skip
async def test_a_redirect_is_judged_as_any_other_url(
    location: str, idp: RawServer, authority: Authority
) -> None:
    idp.reply = lambda head: _to(location)
    asker = client(Names(idp_test=[["127.0.0.1"]], evil_test=[["127.0.0.1"]]), f"idp.test:{idp.port}")
    url = f"https://idp.test:{idp.port}/"
    assert await code_of(asker.get(url, ca_file=str(authority.file), redirects=3)) == "fetch-refused"
    assert idp.connections == 1


async def test_a_redirect_takes_no_field_to_another_origin(idp: RawServer, authority: Authority) -> None:
    other = await RawServer(lambda head: OK).start(authority.server("other.test"))
    idp.reply = lambda head: _to(f"https://other.test:{other.port}/")
    asker = client(
        Names(idp_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]]),
        f"idp.test:{idp.port}",
        f"other.test:{other.port}",
    )
    fields = [("Authorization", "Bearer secret"), ("Accept", "text/plain")]
    got = await asker.get(
        f"https://idp.test:{idp.port}/", fields=fields, ca_file=str(authority.file), redirects=1
    )
    assert got.status == 200
    assert b"Bearer secret" in idp.heads[0]
    assert b"secret" not in other.heads[0] and b"Accept: text/plain" in other.heads[0]
    await other.stop()


async def test_a_loop_of_redirects_ends(idp: RawServer, authority: Authority) -> None:
    idp.reply = lambda head: _to("/")
    asker = client(Names(idp_test=[["127.0.0.1"]]), f"idp.test:{idp.port}")
    got = await asker.get(f"https://idp.test:{idp.port}/", ca_file=str(authority.file), redirects=4)
    assert (got.status, idp.connections) == (302, 5)


async def test_a_certificate_must_hold(idp: RawServer, authority: Authority, tmp_path: Path) -> None:
    names = Names(idp_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    asker = client(names, f"idp.test:{idp.port}", f"other.test:{idp.port}")
    stranger = Authority(tmp_path, "another authority")
    url = f"https://idp.test:{idp.port}/"
    assert await code_of(asker.get(url)) == "fetch-untrusted"
    assert await code_of(asker.get(url, ca_file=str(stranger.file))) == "fetch-untrusted"
    assert (
        await code_of(asker.get(f"https://other.test:{idp.port}/", ca_file=str(authority.file)))
        == "fetch-untrusted"
    )
    old = await RawServer(lambda head: OK).start(authority.server("idp.test", days=-1))
    late = client(names, f"idp.test:{old.port}")
    assert (
        await code_of(late.get(f"https://idp.test:{old.port}/", ca_file=str(authority.file)))
        == "fetch-untrusted"
    )
    assert idp.heads == old.heads == []
    with pytest.raises(OperatorError, match="ca-unreadable"):
        await asker.get(url, ca_file=str(tmp_path / "nowhere.pem"))
    assert (await asker.get(url, ca_file=str(authority.file))).status == 200
    await old.stop()


async def test_authorities_that_change_on_disk_count_at_once(
    idp: RawServer, authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(Authority(tmp_path, "another authority").file.read_bytes())
    asker = client(Names(idp_test=[["127.0.0.1"]]), f"idp.test:{idp.port}")
    url = f"https://idp.test:{idp.port}/"
    assert await code_of(asker.get(url, ca_file=str(trusted))) == "fetch-untrusted"
    trusted.write_bytes(trusted.read_bytes() + authority.file.read_bytes())
    assert (await asker.get(url, ca_file=str(trusted))).status == 200


BROKEN = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "two framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "switching": b"HTTP/1.1 101 Switching\r\n\r\n",
    "interim for ever": b"HTTP/1.1 103 Early\r\n\r\n" * 20,
    "chunked cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "chunk extension": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 9_000,
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
}
LARGE = {
    "announced": b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n01234567890",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n",
    "to the end": b"HTTP/1.1 200 OK\r\n\r\n01234567890",
}
WHOLE = {
    "announced": LARGE["announced"],
    "chunked": LARGE["chunked"],
    "to the end": LARGE["to the end"],
    "after interim": b"HTTP/1.1 103 Early\r\n\r\n" + LARGE["announced"],
}


@pytest.fixture
async def plain() -> AsyncIterator[tuple[RawServer, GuardedHttp, str]]:
    server = await RawServer(lambda head: OK).start()
    yield server, client(Names(), f"127.0.0.1:{server.port}", plain=True), f"http://127.0.0.1:{server.port}/"
    await server.stop()


Plain = tuple[RawServer, GuardedHttp, str]


@pytest.mark.parametrize("name", list(BROKEN))
async def test_a_response_that_can_be_read_in_two_ways_is_not_read_at_all(name: str, plain: Plain) -> None:
    server, asker, url = plain
    server.reply = lambda head: BROKEN[name]
    assert await code_of(asker.get(url)) == "fetch-failed"


@pytest.mark.parametrize("name", list(LARGE))
async def test_an_answer_is_bounded_however_it_is_framed(name: str, plain: Plain) -> None:
    server, asker, url = plain
    server.reply = lambda head: LARGE[name]
    assert await code_of(asker.get(url, limit_bytes=10)) == "fetch-too-large"
    assert (await asker.get(url, limit_bytes=11)).body == b"01234567890"


@pytest.mark.parametrize("name", list(WHOLE))
async def test_an_answer_is_read_whole_however_it_is_framed(name: str, plain: Plain) -> None:
    server, asker, url = plain
    server.reply = lambda head: WHOLE[name]
    assert (await asker.get(url)).body == b"01234567890"


async def test_the_time_is_bounded_as_a_whole(plain: Plain) -> None:
    server, asker, url = plain
    forever = asyncio.Event()

    async def hang() -> bytes:
        await forever.wait()
        return OK

    server.reply = lambda head: hang()
    assert await code_of(asker.get(url, seconds=0.05)) == "fetch-timeout"
    assert await code_of(asker.post(url, [], b"", seconds=0.05)) == "fetch-timeout"
    forever.set()

    async def silent(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    mute = GuardedHttp(NetworkRules(), resolve=silent)
    assert await code_of(mute.get("https://idp.test/", seconds=0.05)) == "fetch-timeout"


async def test_a_dead_address_gives_way_to_the_next(idp: RawServer, authority: Authority) -> None:
    names = Names(idp_test=[["127.0.0.9", "127.0.0.1"]])  # nobody listens at the first
    got = await client(names, f"idp.test:{idp.port}").get(
        f"https://idp.test:{idp.port}/", ca_file=str(authority.file)
    )
    assert got.status == 200
    assert await code_of(client(Names()).get("https://nowhere.test/")) == "fetch-failed"
    assert await code_of(client(Names(empty_test=[[]])).get("https://empty.test/")) == "fetch-failed"
    gone = client(Names(idp_test=[["127.0.0.9"]]), f"idp.test:{idp.port}")
    assert await code_of(gone.get(f"https://idp.test:{idp.port}/")) == "fetch-failed"


async def test_the_environment_names_no_proxy_and_no_key_log(
    plain: Plain, idp: RawServer, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, asker, url = plain
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    assert (await asker.get(url)).status == 200
    secured = client(Names(idp_test=[["127.0.0.1"]]), f"idp.test:{idp.port}")
    assert (await secured.get(f"https://idp.test:{idp.port}/", ca_file=str(authority.file))).status == 200
    assert not (tmp_path / "keys.log").exists()


async def test_the_systems_resolver_is_judged_too() -> None:
    server = await RawServer(lambda head: OK).start()
    url = f"http://localhost:{server.port}/"
    closed = GuardedHttp(NetworkRules.of([], plain_loopback=True))
    assert await code_of(closed.get(url)) == "fetch-refused"
    assert await code_of(closed.get(f"https://localhost:{server.port}/")) == "fetch-refused"
    assert server.connections == 0
    opened = GuardedHttp(NetworkRules.of([f"localhost:{server.port}"], plain_loopback=True))
    assert (await opened.get(url)).status == 200
    closed.close()
    opened.close()
    await server.stop()


async def test_a_location_of_nonsense_is_told_and_no_crash(plain: Plain) -> None:
    server, asker, url = plain
    server.reply = lambda head: _to("http://[")
    with pytest.raises(UpstreamError, match="fetch-refused"):
        await asker.get(url, redirects=1)
