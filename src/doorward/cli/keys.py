"""``doorward keys``: keys and certificates that Doorward makes itself."""

from __future__ import annotations

from cyclopts import App

from doorward.cli.keys_ca import ca

keys = App(name="keys", help="Keys and certificates that Doorward makes itself.")
keys.command(ca)
