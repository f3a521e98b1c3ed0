"""The system calls that a caged server is refused, as a program for the kernel's filter (seccomp(2), classic BPF).

Namespaces do not divide everything: the session keyring of whoever started Doorward (Kerberos tickets, file system keys)
is inherited, and is a place where caged servers could leave each other messages. A few further calls are refused that no
server needs and that have let programs out of cages before.
"""

from __future__ import annotations

import os
import platform
import struct
import sys

# Linux audit architecture and call numbers: add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd,
# open_by_handle_at (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
_MACHINES = {
    "x86_64": (0xC000003E, (248, 249, 250, 321, 298, 323, 304)),
    "aarch64": (0xC00000B7, (217, 218, 219, 280, 241, 282, 265)),
}
_X32_BIT = 0x40000000  # calls of the x32 ABI of x86-64 have numbers of their own above this
_LOAD, _EQUAL, _AT_LEAST, _RETURN = (
    0x20,
    0x15,
    0x35,
    0x06,
)  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
_ALLOW, _KILL, _NOT_PERMITTED = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # the last: errno EPERM


def filter_program(machine: str = "") -> bytes | None:
    """The filter for a kind of machine (default: this one); None where its numbers are not known here."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None or not sys.platform.startswith("linux"):
        return None
    architecture, refused = known
    # (code, jump if true, jump if false, operand); seccomp_data holds nr at 0 and arch at 4.
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    left = len(refused) + 1  # comparisons until the refusal
    lines.append((_AT_LEAST, left, 0, _X32_BIT))
    for position, number in enumerate(refused):
        lines.append((_EQUAL, left - 1 - position, 0, number))
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOT_PERMITTED)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def open_filter() -> int:
    """A descriptor from which bubblewrap can read the filter, closed by the caller; -1 where there is none."""
    program = filter_program()
    if program is None:
        return -1
    descriptor = os.memfd_create("doorward-seccomp", os.MFD_CLOEXEC)
    os.write(descriptor, program)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
