"""One measurement: load, the server's CPU over exactly that load, and the proof that it was the load we meant."""

from __future__ import annotations

import http.client
import json
import random
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import CLIENT_CORE, OUT, Contender, Doorward, Upstream, pinned, rss_bytes

IDLE: list[float] = []  # the machine's idle share before each round


class Void(Exception):
    """A run that does not count: an answer was wrong, or the upstream or the ledger saw something else."""


class Load:
    """The generator, standing with all its connections, before or after its run."""

    def __init__(
        self, mode: str, contender: Contender, path: str, headers: Path | None = None, **options: Any
    ) -> None:
        given = [f"{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            [str(OUT / "load"), mode, str(contender.port), path, str(headers or contender.headers), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=pinned(CLIENT_CORE),
        )
        if self._line() != "ready":
            raise Void(f"the generator could not connect to {contender.name}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def run(self) -> dict[str, Any]:
        self._say()
        line = self._line()
        if not line:
            raise Void("the generator has ended early")
        return json.loads(line)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def stats(upstream: Upstream) -> dict[str, int]:
    """What the upstream has counted so far."""
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=10)
    try:
        connection.request("GET", "/stats")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _check(contender: Contender, result: dict[str, Any], seen: dict[str, int]) -> None:
    if result["wrong"] or result["broken"]:
        raise Void(f"{contender.name}: wrong or broken answers: {result}")
    passed = result["ok"]
    if seen["calls"] != passed:
        raise Void(f"{contender.name}: {passed} calls were answered, the upstream saw {seen['calls']}")
    if seen["malformed"] or seen["sessionless"] and not contender.name.startswith("fastmcp"):
        raise Void(f"{contender.name}: malformed bodies or calls without a session: {seen}")
    if contender.obeys and seen["whitespace"]:
        raise Void(f"{contender.name}: {seen['whitespace']} bodies were not written anew")


def records_of(result: dict[str, Any]) -> int:
    """What the ledger must have gained: a decision and an outcome for each call and each of the two messages of a
    handshake; one record for what was refused."""
    return 2 * result["ok"] + 4 * result["handshakes"] + result["bad_token"] + result["denied"]


def run_load(
    contender: Contender, upstream: Upstream, *, stream: bool = False, **options: Any
) -> dict[str, Any]:
    """Run one load. Adds ``cpu_us`` per call and, for Doorward, ``records``. Raises Void."""
    before = stats(upstream)
    had = contender.records() if isinstance(contender, Doorward) else 0
    options = {"obeyed": int(contender.obeys), "era": "legacy", **options}
    load = Load("calls", contender, contender.stream_path if stream else contender.path, **options)
    try:
        cpu = contender.cpu()
        result = load.run()
        if isinstance(contender, Doorward):
            # Publishing and signing the last second's tiles belongs to these calls too.
            wanted = had + records_of(result)
            found = contender.await_records(wanted)
            result["records"] = found - had
            if found != wanted:
                raise Void(f"{contender.name}: {found - had} records for {wanted - had} expected: {result}")
        result["cpu_us"] = (contender.cpu() - cpu) * 1e6 / result["calls"]
    finally:
        load.close()
    after = stats(upstream)
    seen = {name: after[name] - before[name] for name in after}
    _check(contender, result, seen)
    result["rewritten"] = seen["calls"] - min(seen["whitespace"], seen["calls"])
    return result


def idle_share() -> float:
    """How idle the machine is while nothing of ours runs: 1.0 when nobody else works on it."""

    def read() -> tuple[int, int]:
        numbers = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return numbers[3], sum(numbers)

    idle, total = read()
    time.sleep(0.3)
    idle_then, total_then = read()
    return (idle_then - idle) / max(1, total_then - total)


def paired_rounds(
    contenders: Sequence[tuple[str, Contender, dict[str, Any]]],
    upstream: Upstream,
    rounds: int,
    calls: int,
    *,
    tell: Any,
    **options: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Every contender once in each round, in a new order each time, so that what is compared ran side by side."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in contenders}
    for number in range(rounds):
        IDLE.append(idle_share())
        order = list(contenders)
        random.shuffle(order)
        for name, contender, own in order:
            count = max(20, int(calls * contender.calls_share))
            results[name].append(run_load(contender, upstream, calls=count, **{**options, **own}))
        tell(
            f"  round {number + 1}/{rounds}: "
            + ", ".join(f"{name} {results[name][-1]['cpu_us']:.1f}" for name in results)
        )
    return results


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(results: dict[str, list[dict[str, Any]]], base: str) -> dict[str, Any]:
    """CPU per call of each contender, and its ratio to ``base`` in the same round."""
    found: dict[str, Any] = {}
    for name, rounds in results.items():
        row: dict[str, Any] = {"cpu_us": spread([one["cpu_us"] for one in rounds])}
        if base in results:
            pairs = zip(rounds, results[base], strict=True)
            row["ratio"] = spread([one["cpu_us"] / other["cpu_us"] for one, other in pairs])
        row["calls"] = sum(one["calls"] for one in rounds)
        row["refused"] = sum(one["bad_token"] + one["denied"] for one in rounds)
        row["records"] = sum(one.get("records", 0) for one in rounds)
        row["p50_us"] = spread([one["p50_us"] for one in rounds])
        row["p99_us"] = spread([one["p99_us"] for one in rounds])
        found[name] = row
    return found


def added_latency(results: dict[str, list[dict[str, Any]]], base: str) -> dict[str, Any]:
    """What each contender adds to the latency of ``base`` in the same round, in microseconds."""
    found = {}
    for name, rounds in results.items():
        pairs = list(zip(rounds, results[base], strict=True))
        found[name] = {
            "p50_us": spread([one["p50_us"] for one in rounds]),
            "p99_us": spread([one["p99_us"] for one in rounds]),
            "added_p50_us": spread([one["p50_us"] - other["p50_us"] for one, other in pairs]),
            "added_p99_us": spread([one["p99_us"] - other["p99_us"] for one, other in pairs]),
            "cpu_us": spread([one["cpu_us"] for one in rounds]),
        }
    return found


def _await_streams(upstream: Upstream, count: int) -> None:
    until = time.monotonic() + 30.0
    while stats(upstream)["streams"] != count:
        if time.monotonic() > until:
            raise Void(f"{stats(upstream)['streams']} of {count} streams reached the upstream")
        time.sleep(0.1)
    time.sleep(1.0)  # what each of them still has to be told


def stream_memory(contender: Contender, upstream: Upstream) -> dict[str, float]:
    """Resident memory for each silent stream that is held open: ten users with a hundred each."""
    users, each = 10, 100
    files = contender.header_files(users)
    load = Load("streams", contender, contender.stream_path, connections=64)
    load.run()
    _await_streams(upstream, 64)
    load.close()  # the first ones bring what every later one shares
    time.sleep(1.0)
    there = stats(upstream)["streams"]  # a session goes on listening to its server after its client has gone
    before = rss_bytes(contender.pid)
    loads = [Load("streams", contender, contender.stream_path, file, connections=each) for file in files]
    try:
        for one in loads:
            one.run()
        _await_streams(upstream, there + users * each)
        after = rss_bytes(contender.pid)
    finally:
        for one in loads:
            one.close()
    count = users * each
    return {"streams": count, "rss_kb_per_stream": (after - before) / 1024 / count, "rss_mb": after / 2**20}
