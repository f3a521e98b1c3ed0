"""``doorward completion``: print the completion script of a shell."""

from __future__ import annotations

import sys
from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the completion script of a shell.

    Parameters
    ----------
    shell
        Which shell; for bash, add `eval "$(doorward completion bash)"` to ~/.bashrc.
    """
    from doorward.cli.main import build_app

    sys.stdout.write(build_app().generate_completion(prog_name="doorward", shell=shell))
    return 0
