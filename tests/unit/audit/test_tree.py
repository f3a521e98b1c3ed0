"""The tree against RFC 6962 written out naively, and proofs both ways."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.audit.tree import (
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)


def naive_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def naive_path(index: int, entries: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(entries) == 1:
        return []
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if index < k:
        return [*naive_path(index, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(index - k, entries[k:]), naive_root(entries[:k])]


def naive_subproof(old: int, entries: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 section 2.1.2."""
    if old == len(entries):
        return [] if whole else [naive_root(entries)]
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if old <= k:
        return [*naive_subproof(old, entries[:k], whole), naive_root(entries[k:])]
    return [*naive_subproof(old - k, entries[k:], False), naive_root(entries[:k])]


def perfect_of(entries: list[bytes]):
    return lambda height, index: naive_root(entries[index << height : (index + 1) << height])


ENTRIES = [f"entry {number}".encode() for number in range(70)]


@pytest.mark.parametrize("size", [*range(40), 255, 256, 257, 511, 512, 700])
def test_the_root_is_that_of_the_naive_definition(size: int) -> None:
    entries = [str(number).encode() for number in range(size)]
    tree = Tree()
    for entry in entries:
        tree.add(leaf_hash(entry))
    assert tree.root() == naive_root(entries)
    assert tree.size == size


def test_a_full_tile_at_every_level_is_handed_out_once_with_its_index() -> None:
    seen: list[tuple[int, int, int]] = []
    tree = Tree()
    tree.extend([b"x"] * 65_536, lambda level, index, hashes: seen.append((level, index, len(hashes))))
    assert seen == [*((0, index, 256) for index in range(256)), (1, 0, 256)]
    assert [len(level) for level in tree.levels] == [0, 0, 1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_inclusion_proofs_are_those_of_the_rfc_and_hold_only_for_their_leaf(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    entries = ENTRIES[:size]
    proof = inclusion_proof(index, size, perfect_of(entries))
    assert proof == naive_path(index, entries)
    root = naive_root(entries)
    assert verify_inclusion(leaf_hash(entries[index]), index, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
    assert not verify_inclusion(leaf_hash(entries[index]), index, size, [*proof, root], root)
    if proof:
        assert not verify_inclusion(leaf_hash(entries[index]), index, size, proof[:-1], root)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_consistency_proofs_are_those_of_the_rfc_and_hold_only_for_their_roots(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, 70))
    old = data.draw(st.integers(1, new))
    entries = ENTRIES[:new]
    proof = consistency_proof(old, new, perfect_of(entries))
    assert proof == naive_subproof(old, entries, True)
    old_root, new_root = naive_root(entries[:old]), naive_root(entries)
    assert verify_consistency(old, new, old_root, new_root, proof)
    assert not verify_consistency(old, new, leaf_hash(b"x"), new_root, proof)
    assert not verify_consistency(old, new, old_root, leaf_hash(b"x"), proof)


def test_proofs_outside_of_the_tree_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        inclusion_proof(3, 3, perfect_of(ENTRIES))
    with pytest.raises(ValueError, match="0 < old"):
        consistency_proof(0, 3, perfect_of(ENTRIES))
    assert not verify_inclusion(b"", 3, 3, [], b"")
    assert not verify_consistency(0, 3, b"", b"", [])
