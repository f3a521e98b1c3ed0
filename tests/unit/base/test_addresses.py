"""Which URLs and addresses Doorward may connect to: a table of targets, and spellings that a property makes up."""

from __future__ import annotations

import ipaddress
import re
import socket

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from doorward.base.addresses import NetworkRules, as_address, kind_of, parse_exception, parse_target
from doorward.base.errors import UpstreamError

CLOSED = NetworkRules()
# Each leads somewhere that a caller has no business at, or is spelled so that two readers may disagree where (T-13, T-20, T-39).
REFUSED_URLS = [
    "https://127.0.0.1/", "https://127.0.0.2/", "https://127.1/", "https://127.0.1/", "https://2130706433/", "https://0x7f000001/",
    "https://0x7f.1/", "https://0177.0.0.1/", "https://0177.1/", "https://127.0.0.01/", "https://127.0.0.1./", "https://0/",
    "https://0.0.0.0/", "https://00000000000/", "https://0x/", "https://1.2.3/", "https://256.1.1.1/", "https://1.2.3.4.5/",
    "https://127.0.0.0x1/", "https://localhost./", "https://idp.example.com./", "https://.example.com/", "https://a..example/",
    "https://-a.example/", "https://a-.example/", "https://a_b.example/", "https://10.0.0.1/", "https://10.255.255.255/",
    "https://172.16.0.1/", "https://172.31.255.1/", "https://192.168.1.1/", "https://100.64.0.1/", "https://100.127.255.254/",
    "https://169.254.169.254/latest/meta-data/", "https://169.254.170.2/", "https://168.63.129.16/", "https://100.100.100.200/",
    "https://192.0.0.192/", "https://192.0.0.1/", "https://192.0.2.1/", "https://198.51.100.1/", "https://203.0.113.1/",
    "https://198.18.0.1/", "https://192.88.99.1/", "https://224.0.0.1/", "https://239.255.255.250/", "https://240.0.0.1/",
    "https://255.255.255.255/", "https://[::]/", "https://[::1]/", "https://[0:0:0:0:0:0:0:1]/", "https://[::7f00:1]/",
    "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[::ffff:8.8.8.8]/", "https://[::ffff:0:127.0.0.1]/",
    "https://[::127.0.0.1]/", "https://[64:ff9b::127.0.0.1]/", "https://[64:ff9b::a9fe:a9fe]/", "https://[64:ff9b:1::7f00:1]/",
    "https://[2002:7f00:1::]/", "https://[2002:a9fe:a9fe::1]/", "https://[2001::1]/", "https://[2001:0:7f00:1::]/",
    "https://[2001:db8::1]/", "https://[3fff::1]/", "https://[5f00::1]/", "https://[100::1]/", "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/", "https://[fec0::1]/", "https://[fc00::1]/", "https://[fd00:ec2::254]/", "https://[fd20:ce::254]/",
    "https://[ff02::1]/", "https://[2606:4700::5efe:7f00:1]/", "https://[2606:4700::200:5efe:a00:1]/", "https://[::1",
    "https://::1/", "https://[127.0.0.1]/", "https://[v1.a]/", "https://user@idp.example.com/", "https://user:word@idp.example.com/",
    "https://idp.example.com@127.0.0.1/", "https://idp.example.com\\@127.0.0.1/", "https://idp.example.com#@127.0.0.1/",
    "https://idp.example.com/#fragment", "https://idp.example.com/a b", "https://idp.example.com/\r\nHost: x", "https://idp.example.com/\t",
    "https://idp.example.com/\u2026", "https://\u2488.example/", "https://\uff11\uff12\uff17.1/", "https://127\u30020\u30020\u30021/",
    "https://b\u00fccher.example/", "https://idp%2eexample.com/", "https://%31%32%37.0.0.1/", "https:///etc/passwd", "https://",
    "https:idp.example.com", "//idp.example.com/", "idp.example.com", "", "http://idp.example.com/", "http://127.0.0.1/", "ftp://idp.example.com/",
    "file:///etc/passwd", "gopher://idp.example.com/", "data:text/plain,x", "jar:https://idp.example.com!/", "javascript:1",
    "https://idp.example.com:0/", "https://idp.example.com:00443/", "https://idp.example.com:65536/", "https://idp.example.com:+443/",
    "https://idp.example.com:/", "https://idp.example.com:443:80/", "https://idp.example.com:22/", "https://idp.example.com:25/",
    "https://idp.example.com:80/", " https://idp.example.com/", "https://idp.example.com /", "https://" + "a" * 64 + ".example/",
    "https://" + "a." * 127 + "example/", "https://idp.example.com/" + "a" * 3_000, "https://idp.example.com/a\\b", "https://idp.example.com/\x00",
    "https://idp.example.com/<script>", 'https://idp.example.com/"', "https://idp.example.com/{x}", "https://idp.example.com/a|b",
]  # fmt: skip
GOOD_URLS = [
    ("https://idp.example.com", "https://idp.example.com/"),
    ("https://idp.example.com/", "https://idp.example.com/"),
    ("HTTPS://IDP.Example.COM:443/A?b=C", "https://idp.example.com/A?b=C"),
    ("https://idp.example.com:8443/a/b;c?d=e&f=%20", "https://idp.example.com:8443/a/b;c?d=e&f=%20"),
    ("https://idp.example.com?x=1", "https://idp.example.com/?x=1"),
    ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
    ("https://8.8.8.8/dns-query", "https://8.8.8.8/dns-query"),
    ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
    ("https://[2606:4700:4700:0:0:0:0:1111]:8443/", "https://[2606:4700:4700::1111]:8443/"),
    ("https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration", None),
]


def test_the_table_of_targets_is_as_long_as_it_says():
    assert len(set(REFUSED_URLS)) == len(REFUSED_URLS) >= 120


@pytest.mark.parametrize("url", REFUSED_URLS, ids=lambda url: ascii(url)[:60])
def test_a_target_that_nobody_may_choose_is_refused(url):
    with pytest.raises(UpstreamError) as caught:
        CLOSED.admit(url)
    assert caught.value.code == "fetch-refused"


@pytest.mark.parametrize(("url", "shown"), GOOD_URLS)
def test_an_ordinary_url_passes_in_one_spelling(url, shown):
    assert CLOSED.admit(url).url == (shown or url)


def test_an_exception_opens_exactly_its_host_and_port():
    rules = NetworkRules.of(["10.1.2.3:443", "[fd12::1]:8443", "IDP.corp:443"], plain_loopback=False)
    assert rules.admit("https://10.1.2.3/keys").host == "10.1.2.3"
    assert rules.admit("https://[fd12:0::1]:8443/").host == "fd12::1"
    target = rules.admit("https://idp.corp/")
    rules.admit_address(target, ipaddress.ip_address("10.9.9.9"))
    for url in ("https://10.1.2.3:8443/", "https://10.1.2.4/", "https://[fd12::1]/", "http://10.1.2.3:443/"):
        with pytest.raises(UpstreamError):
            rules.admit(url)
    for never in ("169.254.169.254", "::ffff:10.9.9.9", "0.0.0.0", "224.0.0.1", "fe80::1"):
        with pytest.raises(UpstreamError):
            rules.admit_address(target, ipaddress.ip_address(never))


def test_plain_http_is_for_named_loopback_where_the_profile_has_it():
    rules = NetworkRules.of(["127.0.0.1:9000", "localhost:9000", "idp.example.com:80"], plain_loopback=True)
    assert rules.admit("http://127.0.0.1:9000/a").port == 9000
    target = rules.admit("http://localhost:9000/a")
    rules.admit_address(target, ipaddress.ip_address("::1"))
    with pytest.raises(UpstreamError):  # whatever a hosts file says
        rules.admit_address(target, ipaddress.ip_address("10.0.0.1"))
    for url in ("http://127.0.0.1:9001/", "http://127.0.0.2:9000/", "http://idp.example.com/"):
        with pytest.raises(UpstreamError):
            rules.admit(url)
    elsewhere = NetworkRules.of(["127.0.0.1:9000"], plain_loopback=False)
    with pytest.raises(UpstreamError):
        elsewhere.admit("http://127.0.0.1:9000/")
    assert elsewhere.admit("https://127.0.0.1:9000/").scheme == "https"


@pytest.mark.parametrize(
    "entry",
    ["", "a", "a:", ":443", "a:0", "a:70000", "a:b", "https://a:443", "a/b:443", "127.1:443", "::1:443", "[::1:443",
     "*.example.com:443", "169.254.169.254:80", "0.0.0.0:80", "[fe80::1]:443", "[::ffff:127.0.0.1]:443", "[fd00:ec2::254]:80"],
)  # fmt: skip
def test_an_exception_that_means_nothing_or_too_much_is_refused(entry):
    with pytest.raises(ValueError, match=f"^{re.escape(entry)}$"):
        parse_exception(entry)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@settings(deadline=None)
@given(ADDRESSES)
@example(ipaddress.ip_address("168.63.129.16"))
def test_what_is_called_public_is_globally_routed(address):
    if kind_of(address) == "public":
        assert address.is_global
        assert not (
            address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
        )
        assert not (address.is_reserved or address.is_unspecified)


@settings(deadline=None)
@given(
    st.ip_addresses(v=4),
    st.sampled_from(["::ffff:{}", "::{}", "64:ff9b::{}", "::ffff:0:{}", "2606:4700::5efe:{}"]),
)
def test_no_form_that_carries_an_ipv4_address_is_reached(address, form):
    inside = as_address(form.format(address))
    assert inside is not None
    assert kind_of(inside) != "public"


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_no_spelling_that_the_c_library_reads_as_an_address_passes_but_the_plain_one(number, data):
    """inet_aton(3) takes octal, hexadecimal and short forms: whatever it takes is refused or is the dotted quad itself."""
    parts = data.draw(st.integers(1, 4))
    bytes_ = number.to_bytes(4, "big")
    values = [*bytes_[: parts - 1], int.from_bytes(bytes_[parts - 1 :], "big")]
    bases = data.draw(
        st.lists(st.sampled_from(["{}", "0x{:x}", "0{:o}", "0X{:X}"]), min_size=parts, max_size=parts)
    )
    host = ".".join(base.format(value) for base, value in zip(bases, values, strict=True))
    assert int.from_bytes(socket.inet_aton(host), "big") == number
    try:
        target = parse_target(f"https://{host}/")
    except UpstreamError:
        return
    assert target.host == str(ipaddress.IPv4Address(number)) == host


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=10))
@example("idp.example.com", "/..//a")
def test_a_parsed_url_is_a_fixed_point(host, path):
    try:
        target = parse_target(f"https://{host}/{path}")
    except UpstreamError:
        return
    assert parse_target(target.url) == target
    assert target.host.isascii() and target.host == target.host.lower()
