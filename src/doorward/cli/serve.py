"""``doorward serve``: run the gateway until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from doorward.base.errors import DoorwardError, OperatorError


def run_serve(config: Path | None = None, ready_fd: int = -1) -> int:
    """Serve with a settings file. ``ready_fd``: a descriptor that gets a line when all workers listen.

    Returns the exit code: 0 after an orderly end, 2 for wrong settings, 3 when the machine does not allow it.
    """
    from doorward.adapters.logs import configure_logs
    from doorward.app.secrets import leave_environment
    from doorward.app.supervisor import Supervisor
    from doorward.settings import load

    try:
        loaded = load(config)
        leave_environment(loaded.settings)
        configure_logs()

        def ready() -> None:
            _say_ready(loaded.settings.gateway.public_url, loaded.settings.admin.listen, ready_fd)

        return asyncio.run(Supervisor(loaded, on_ready=ready).run())
    except DoorwardError as error:
        sys.stderr.write(f"{error.code}: {error.tell}\n")
        return 2 if isinstance(error, OperatorError) and error.code.startswith(("settings", "policy", "limit")) else 3
    except KeyboardInterrupt:
        return 0


def _say_ready(url: str, admin: str, ready_fd: int) -> None:
    sys.stderr.write(f"Doorward is ready: {url} (admin: http://{admin}/)\n")
    sys.stderr.flush()
    if ready_fd >= 0:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
