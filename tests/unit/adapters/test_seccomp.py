"""The kernel's filter of system calls around caged servers."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys

import pytest

from doorward.adapters.executables import find_bwrap
from doorward.adapters.seccomp import filter_program, open_filter

_PROBE = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for number in {numbers}:
    ctypes.set_errno(0)
    libc.syscall(number, 0, 0, 0, 0, 0)
    print(number, ctypes.get_errno())
"""


def _decide(program: bytes, architecture: int, number: int) -> int:
    """What the filter answers, by a small interpreter of its own."""
    lines = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, held = 0, 0
    while True:
        code, yes, no, operand = lines[at]
        at += 1
        match code:
            case 0x20:
                held = {0: number, 4: architecture}[operand]
            case 0x15:
                at += yes if held == operand else no
            case 0x35:
                at += yes if held >= operand else no
            case 0x06:
                return operand


@pytest.mark.parametrize(
    ("machine", "architecture", "keyctl"), [("x86_64", 0xC000003E, 250), ("aarch64", 0xC00000B7, 219)]
)
def test_the_filter_refuses_what_it_names_and_nothing_else(
    machine: str, architecture: int, keyctl: int
) -> None:
    program = filter_program(machine)
    if not sys.platform.startswith("linux"):
        assert program is None
        return
    assert program is not None
    answers = {number: _decide(program, architecture, number) for number in range(500)}
    refused = {number for number, answer in answers.items() if answer != 0x7FFF0000}
    assert len(refused) == 7 and {keyctl, keyctl - 1, keyctl - 2} <= refused
    assert {answers[number] for number in refused} == {0x00050001}
    assert _decide(program, architecture, 0x40000000 | keyctl) == 0x00050001  # another name for a call
    assert _decide(program, 0x40000003, keyctl) == 0x80000000  # calls of another architecture


def test_a_machine_that_is_not_known_has_no_filter() -> None:
    assert filter_program("vax") is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
@pytest.mark.skipif(find_bwrap() is None, reason="needs bubblewrap")
def test_a_caged_program_cannot_reach_the_keyring_of_who_started_doorward() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    name = f"doorward-test-{os.getpid()}".encode()
    key = libc.syscall(248, b"user", name, b"sentinel", 8, -3)  # add_key to the session keyring
    calls = open_filter()
    command = [
        str(find_bwrap()), "--seccomp", str(calls), "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/",
        "--", sys.executable, "-c", _PROBE.format(numbers=[248, 249, 250, 321, 298, 323, 304, 39]),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, pass_fds=(calls,), capture_output=True, text=True, timeout=20, check=False
        )
    finally:
        os.close(calls)
        if key > 0:
            libc.syscall(250, 9, key, -3)  # unlink it again
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found.pop("39") == "0", done  # getpid
    assert set(found.values()) == {"1"}, done  # EPERM
