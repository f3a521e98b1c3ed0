"""A worker that speaks the supervisor's bus and serves nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from doorward.adapters.bus import Channel, Peer


async def main() -> None:
    index = int(os.environ["DOORWARD_WORKER_INDEX"])
    peer = await Peer.over(socket.socket(fileno=int(os.environ["DOORWARD_BUS_FD"])))
    over = asyncio.Event()
    heard: dict[str, Any] = {"ticks": 0, "generation": 0, "pid": os.getpid()}
    peer.on_close = lambda _: over.set()

    def snapshot(payload: Any) -> None:
        heard["generation"] = payload["generation"]
        heard["revoked"] = payload["revoked"]
        peer.tell("metrics", dict(heard))

    def tick(payload: Any) -> None:
        heard["ticks"] += 1
        peer.tell("metrics", dict(heard))

    def relayed(payload: Any, channel: Channel) -> None:
        channel.on_message = lambda message: channel.send([index, payload["x"], message])

    peer.on_tell("snapshot", snapshot)
    peer.on_tell("tick", tick)
    peer.on_tell("drain", lambda _: over.set())
    peer.on_tell("list-changed", lambda payload: heard.setdefault("changed", []).append(payload))
    peer.accept("relay", relayed)
    snapshot(await peer.ask("hello", {"index": index, "pid": os.getpid()}, timeout_seconds=20))
    heard["signed"] = await peer.ask("sign", {"origin": "bad", "size": 1, "root": b""}) if index > 90 else ""
    heard["marks"] = [
        await peer.ask("mark-once", {"space": "s", "key": f"{index}", "expires_at": 9e9}) for _ in range(2)
    ]
    heard["shared"] = await peer.ask("mark-once", {"space": "s", "key": "shared", "expires_at": 9e9})
    gate = os.environ.get("FAKE_WORKER_GATE", "")
    while index == 1 and gate and not os.path.exists(gate):
        await asyncio.sleep(0.01)
    if index == 1:
        heard["relay"] = await relay(peer)
        for server in ("unknown", "known", 5):
            peer.tell("list-changed", {"server": server})
    peer.tell("ready", {"index": index})
    peer.tell("metrics", dict(heard))
    await over.wait()


async def relay(peer: Peer) -> Any:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    channel = peer.open("relay", {"to": 0, "x": "y"}, on_message=answer.set_result, on_close=lambda _: None)
    channel.send("hello")
    found = await asyncio.wait_for(answer, 5)
    channel.close()
    return found


if __name__ == "__main__":
    asyncio.run(main())
