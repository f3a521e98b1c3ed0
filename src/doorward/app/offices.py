"""The offices of the supervisor, in the order in which they open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from doorward.app.alerts import Alerts
from doorward.app.authorization import Authorization
from doorward.app.certificates import Certificates
from doorward.app.credential_room import CredentialRoom
from doorward.app.definitions import Definitions
from doorward.app.issuers import Issuers
from doorward.app.key_room import KeyRoom
from doorward.app.notary import Notary
from doorward.app.office import Answering, Office
from doorward.app.proofs import Proofs
from doorward.app.secret_room import SecretRoom
from doorward.app.session_office import Sessions
from doorward.app.withdrawals import Withdrawals
from doorward.base.errors import CallerError, DoorwardError
from doorward.console.acts import Act

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from doorward.adapters.bus import Peer
    from doorward.app.supervisor import Supervisor
    from doorward.settings import Loaded

AnyOffice = TypeVar("AnyOffice", bound=Office)
_log = logging.getLogger("doorward.offices")


def offices_of(supervisor: Supervisor) -> list[Office]:
    """Every office there is. One line for each, with the reason where its place matters."""
    issuers, keys, sign_ins = Issuers(supervisor), KeyRoom(supervisor), Authorization(supervisor)
    return [
        Notary(supervisor),
        keys,  # before all that keep secrets
        SecretRoom(supervisor),
        Alerts(supervisor),
        Certificates(supervisor),  # before whatever listens or connects
        sign_ins,
        CredentialRoom(supervisor, keys, sign_ins),  # after what knows who is signed in
        issuers,
        Withdrawals(supervisor, issuers),
        Definitions(supervisor),
        Proofs(supervisor),
        Sessions(supervisor),
    ]


class Offices:
    """All offices as one, for the supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._all = offices_of(supervisor)
        self._opened: list[Office] = []
        self._web: Starlette | None = None

    def of(self, kind: type[AnyOffice]) -> AnyOffice:
        """The office of a kind. Raises: LookupError."""
        for office in self._all:
            if isinstance(office, kind):
                return office
        raise LookupError(kind.__name__)

    async def open(self) -> None:
        """Open one after the other. Raises: DoorwardError."""
        for office in self._all:
            await office.open()
            self._opened.append(office)

    def find(self, name: str) -> Office | None:
        """The office of that name."""
        return next((office for office in self._all if office.name == name), None)

    def judge(self, fresh: Loaded) -> None:
        """Let each refuse new settings. Raises: DoorwardError."""
        for office in self._all:
            office.judge(fresh)

    def renew(self) -> None:
        """New settings are in force."""
        for office in self._all:
            office.renew()

    async def close(self) -> None:
        """Close those that were opened, last first; one that fails keeps none from closing."""
        while self._opened:
            try:
                await self._opened.pop().close()
            except Exception:  # noqa: BLE001 - the others must close too
                _log.exception("an office could not be closed")

    def papers(self) -> dict[str, Any]:
        """What goes with every snapshot."""
        return {office.name: paper for office in self._all if (paper := office.paper()) is not None}

    def web_paths(self) -> list[str]:
        """Paths of the data plane that offices serve."""
        return [path for office in self._all for path in office.web_paths()]

    def acts(self) -> Sequence[Act]:
        """What operators may see and do."""
        return [act for office in self._all for act in office.acts()]

    def listen(self, peer: Peer, index: int) -> None:
        """Answer what a worker asks."""
        peer.answer("web", self._answer_web)
        for office in self._all:
            office.listen(peer)
            for topic, answering in office.asks().items():
                peer.answer(topic, _bound(answering, index))

    async def _answer_web(self, payload: Any) -> dict[str, Any]:
        from doorward.adapters.asgi_call import call_app

        if self._web is None:
            from starlette.applications import Starlette

            self._web = Starlette(routes=[route for office in self._all for route in office.web()])
        url = self._supervisor.settings.gateway.public_url
        try:
            async with asyncio.timeout(25.0):
                return await call_app(self._web, payload, scheme=url.partition(":")[0])
        except CallerError as error:
            return _problem(error.status, "invalid_request", error.tell)
        except DoorwardError as error:
            _log.error("a page could not be served", extra={"code": error.code})
            return _problem(503, "temporarily_unavailable", error.tell)
        except Exception:  # noqa: BLE001 - the last net: a bug answers 500 and never leaks
            _log.exception("a page failed")
            return _problem(500, "server_error", "The gateway could not serve this.")


def _bound(answering: Answering, index: int) -> Callable[[Any], Any]:
    return lambda payload: answering(index, payload)


def _problem(status: int, error: str, tell: str) -> dict[str, Any]:
    """An answer of the form of RFC 6749 section 5.2."""
    import msgspec

    body = msgspec.json.encode({"error": error, "error_description": tell})
    return {
        "status": status,
        "fields": [["content-type", "application/json"], ["cache-control", "no-store"]],
        "body": body,
    }
