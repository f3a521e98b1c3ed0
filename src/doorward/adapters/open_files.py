"""How many files and connections this process may have open, and how many of them clients may take.

A process without a descriptor to spare can neither answer nor write its ledger, so clients never get the last ones.
"""

from __future__ import annotations

import contextlib
import resource

WANTED = 65_536
CONNECTIONS = 20_000  # of clients, of one worker
BACKLOG = 1_024  # connections that the kernel holds ahead; all of them may be taken in one turn before one is refused
_RESERVE = 2_048  # for upstreams, the ledger and what is accepted only to be refused


def raise_open_files() -> int:
    """Raise the soft limit as far as it may go, up to ``WANTED``; the limit now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(
            OSError, ValueError
        ):  # systems with a further limit of their own keep what they have
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def connections_within(open_files: int) -> tuple[int, int]:
    """How many client connections a worker may have under this limit, and how many may wait to be taken."""
    if open_files >= 4 * _RESERVE:
        return min(CONNECTIONS, open_files - _RESERVE), BACKLOG
    return max(16, open_files // 2), max(16, open_files // 8)
