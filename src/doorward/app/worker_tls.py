"""TLS of one worker: the contexts of its listener and of its connections to servers, made of what the supervisor has read."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from doorward.adapters.http_listener import HttpListener
from doorward.adapters.tls_contexts import (
    ListenerMaterial,
    UpstreamMaterial,
    facts_of_der,
    server_context,
    upstream_context,
)
from doorward.base.errors import UpstreamError
from doorward.catalogue.server import ServerSpec, ServerTls
from doorward.settings import Settings

CheckPeer = Callable[[bytes], None]
_HSTS = b"Strict-Transport-Security: max-age=31536000\r\n"  # RFC 6797; one year
_SEEN_COUNT = 1_024


class _Paper(msgspec.Struct, frozen=True):
    gateway: ListenerMaterial | None = None
    upstreams: dict[str, UpstreamMaterial] = {}


class WorkerTls:
    """Keeps the material of the snapshot in force."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """``tell`` hears what a server has shown for the first time, and each time that a pin is broken."""
        self._tell = tell
        self._paper = _Paper()
        self._before: dict[str, UpstreamMaterial] = {}
        self._seen: dict[tuple[str, str, tuple[str, ...], str], str] = {}
        self._distrusts = False  # the authorities of clients are others than before
        self.listener_context: ssl.SSLContext | None = None

    def adopt(self, paper: Any) -> None:
        """Take what came with a snapshot. Raises: OperatorError; the supervisor has tried it all before."""
        fresh = _Paper() if paper is None else msgspec.convert(paper, type=_Paper, builtin_types=(bytes,))
        before, self._paper = self._paper, fresh
        self._before = before.upstreams
        if fresh.gateway is not None and (fresh.gateway != before.gateway or self.listener_context is None):
            self.listener_context = server_context(fresh.gateway)
            self._distrusts = (
                before.gateway is not None and before.gateway.client_ca != fresh.gateway.client_ca
            )

    def attach(self, listener: HttpListener, settings: Settings) -> None:
        """Let new connections use what is in force now."""
        if listener.door is not None and self.listener_context is not None:
            listener.door.context = self.listener_context
        if self._distrusts:
            self._distrusts = False
            listener.distrust_certificates()
        public = urlsplit(settings.gateway.public_url)
        # Not for the name localhost: browsers would want https of everything else on this machine as well.
        secure = public.scheme == "https" and public.hostname != "localhost"
        listener.answer_always(_HSTS if secure else b"")

    def is_new(self, server: str) -> bool:
        """True when the files of a server's TLS are not those of the snapshot before."""
        return self._before.get(server) != self._paper.upstreams.get(server)

    def towards(self, spec: ServerSpec) -> tuple[object, ssl.SSLContext, CheckPeer]:
        """What tells one kind of connection to a server from another, its context, and the check of the certificate.

        SECURITY: connections are shared only by servers that ask the same of them; without this a kept one that was
        made without a pin would serve a server with one.
        """
        tls = spec.tls or ServerTls()
        material = self._paper.upstreams.get(spec.name, UpstreamMaterial())
        key = (spec.name, tls, material) if spec.tls is not None else spec.name
        return key, upstream_context(material), lambda der: self._check(spec.name, tls, der)

    def _check(self, server: str, tls: ServerTls, der: bytes) -> None:
        """Before a byte of a request leaves. Raises: UpstreamError ``upstream-pin``."""
        try:
            facts = facts_of_der(der)
        except ValueError as error:
            raise UpstreamError(
                "upstream-certificate", "The server's certificate cannot be read.", str(error)
            ) from error
        fits = not tls.pin or facts.spki in tls.pin
        verdict = "fits" if fits else "refused" if tls.mode == "enforce" else "reported"
        seen = (server, facts.serial, tls.pin, tls.mode)
        if self._seen.get(seen) != facts.spki:
            if len(self._seen) >= _SEEN_COUNT:
                self._seen.clear()
            self._seen[seen] = facts.spki
            told = msgspec.to_builtins(facts)
            del told["names"]
            self._tell({"server": server, "verdict": verdict, **told})
        if verdict == "refused":
            raise UpstreamError(
                "upstream-pin", "The server shows another key than the one that is pinned for it."
            )

    @staticmethod
    def numbers(listener: HttpListener) -> dict[str, Any]:
        """What the metrics page shows."""
        door = listener.door
        if door is None:
            return {}
        return {"handshakes_pending": door.pending, "handshakes_failed": dict(door.failures)}
