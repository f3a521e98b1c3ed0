"""Notes against examples that other implementations publish, and strictness."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from doorward.audit.checkpoint import (
    Checkpoint,
    is_origin,
    open_note,
    origins_text,
    parse_checkpoint,
    parse_origins,
    read_vkey,
    sign_note,
    signers_of,
    unsigned_checkpoint,
    write_vkey,
)
from doorward.base.errors import TamperError

# The example of the Go package golang.org/x/mod/sumdb/note.
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


def test_a_note_of_another_implementation_opens() -> None:
    name, public = read_vkey(VKEY)
    assert open_note(NOTE, name, public).startswith("If you think")
    assert write_vkey(name, public) == VKEY


def test_the_example_checkpoint_of_the_specification_parses() -> None:
    note = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    ).encode()
    found = unsigned_checkpoint(note)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert signers_of(note) == [("example.com/behind-the-sofa", bytes.fromhex("033de0ae"))]


@given(st.data())
def test_no_byte_of_a_note_can_change(data: st.DataObject) -> None:
    note = bytearray(sign_note(Checkpoint("a/b", 7, bytes(32)).text, "a/b", KEY).encode())
    place = data.draw(st.integers(0, len(note) - 1))
    note[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TamperError):
        parse_checkpoint(open_note(bytes(note), "a/b", PUBLIC))


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else_is_raised(note: bytes) -> None:
    with pytest.raises(TamperError):
        open_note(note, "a", PUBLIC)


@pytest.mark.parametrize(
    "text",
    ["", "a\n", "a\n01\n" + "A" * 43 + "=\n", "a\n-1\n" + "A" * 43 + "=\n", "a\n1\nAAAA\n", "\n1\n" + "A" * 43 + "=\n",
     "a\n1\n" + "A" * 43 + "=\nextension\n", "a\n1\n" + "A" * 42 + "B=\n"],
)  # fmt: skip
def test_checkpoints_have_exactly_one_form(text: str) -> None:
    with pytest.raises(TamperError):
        parse_checkpoint(text)


def test_the_set_of_logs_has_exactly_one_form() -> None:
    text = origins_text("doorward/x", ["doorward/x/w0", "doorward/x/w1"])
    assert parse_origins(text) == ("doorward/x", ["doorward/x/w0", "doorward/x/w1"])
    for broken in (text + "more\n", text.replace("2", "3"), text.replace("w0", "../w0"), ""):
        with pytest.raises(TamperError):
            parse_origins(broken)


@pytest.mark.parametrize("name", ["", "/a", "a//b", "a/../b", "a+b", "a b", "A", "a/", ".", "a" * 200])
def test_names_that_are_not_safe_are_no_origins(name: str) -> None:
    assert not is_origin(name)


def test_a_verifier_key_with_a_wrong_id_is_refused() -> None:
    with pytest.raises(TamperError):
        read_vkey(VKEY.replace("c74f20a3", "c74f20a4"))
    with pytest.raises(TamperError):
        read_vkey("nothing")
