"""``doorward serve``: run the gateway until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def serve(
    *,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
    ready_fd: Annotated[int, Parameter(name="--ready-fd", help="Gets a line when all workers listen.")] = -1,
) -> int:
    """Run the gateway until it is told to stop."""
    from doorward.adapters.logs import configure_logs
    from doorward.app.secrets import leave_environment
    from doorward.app.supervisor import Supervisor
    from doorward.settings import load

    loaded = load(config)
    leave_environment(loaded.settings)
    configure_logs()

    def ready() -> None:
        admin = loaded.settings.admin
        scheme = "http" if admin.tls is None else "https"
        _say_ready(loaded.settings.gateway.public_url, f"{scheme}://{admin.listen}/", ready_fd)

    return asyncio.run(Supervisor(loaded, on_ready=ready).run())


def _say_ready(url: str, admin: str, ready_fd: int) -> None:
    sys.stderr.write(f"Doorward is ready: {url} (admin: {admin})\n")
    sys.stderr.flush()
    if ready_fd >= 0:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
