"""Named caps: sizes in bytes, counts, depths and seconds, each with the reason for its value."""

from __future__ import annotations

HEAD_BYTES = 32_768  # a bearer token of 16 KiB and ordinary headers fit
HEADER_FIELDS = 100  # what common servers accept
TARGET_BYTES = 4_096  # longer request targets are 414
HEAD_SECONDS = 10.0  # a head that takes longer is a slow attack
BODY_SECONDS = 30.0  # from the end of the head to the end of the body
IDLE_SECONDS = 75.0  # keep-alive connections without a request are closed
NESTING_DEPTH = 200  # JSON deeper than this is refused; the reader's own bound, so that it costs nothing
INTEGER_DIGITS = 20  # longer integers are refused: no reader agrees on them
KEYS_COUNT = 20_000  # members in one object
ID_CHARS = 256  # a JSON-RPC id that is a string; longer ones only fill logs
REPLY_BYTES = 33_554_432  # one JSON answer of an upstream
LISTED_BYTES = 33_554_432  # all pages of one server's list that are gathered; the rest is cut
EVENT_BYTES = 8_388_608  # one event of an upstream's stream
LINE_BYTES = 8_388_608  # one line of a stdio server
BANNER_LINES = 200  # lines that are not JSON-RPC before a stdio server is given up
SESSIONS_PER_PRINCIPAL = 100
SESSIONS_TOTAL = 10_000
SESSION_IDLE_SECONDS = 1_800.0
SESSION_ABSOLUTE_SECONDS = 86_400.0
STREAM_BUFFER_BYTES = 1_048_576  # per client stream, before back-pressure pauses the upstream
REPLAY_EVENTS = 512  # kept for a legacy session's resume
REPLAY_BYTES = 1_048_576
SESSION_REPLAY_BYTES = 8_388_608  # of all streams of one session, apart from those that are under way
TOTAL_REPLAY_BYTES = 134_217_728  # of all sessions of one worker, likewise
UPSTREAM_SECONDS = 300.0  # hard maximum of one call, progress or not
SNAPSHOT_SECONDS = 2.0  # a worker this far behind the supervisor refuses
CHILD_MEMORY_BYTES = (
    4_294_967_296  # data segment of one process of a stdio server; Node wants over 1 GiB at start
)
CHILD_PROCESSES = 256  # processes and threads of one stdio server; Node alone takes about a dozen
CHILD_OPEN_FILES = 1_024
CHILD_FILE_BYTES = 268_435_456  # one file that a stdio server writes
CHILD_SCRATCH_BYTES = 268_435_456  # /tmp of a caged server, in memory
CHILD_STOP_SECONDS = 2.0  # after stdin is closed, and again after SIGTERM, before the next step
CHILD_IDLE_SECONDS = 300.0  # a stdio server without a client ends after this
CHILDREN_PER_PRINCIPAL = 32  # stdio processes of one principal; as many servers at once are rare
CHILDREN_TOTAL = 256
CHILD_BACKOFF_FIRST_SECONDS = (
    0.5  # a stdio server that exits is started again after this, doubled each time ...
)
CHILD_BACKOFF_LAST_SECONDS = 30.0  # ... up to this
CHILD_STDERR_LINE_BYTES = 4_096  # longer lines of a stdio server's stderr are cut in the log
CHILD_STDERR_LINES_PER_SECOND = 50  # more are counted and dropped
CHILD_STDIN_BYTES = 33_554_432  # what may wait for a stdio server that does not read
CHILD_PROBE_SECONDS = 10.0  # a stdio server that does not answer server/discover within this is legacy
