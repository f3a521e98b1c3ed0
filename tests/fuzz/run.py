"""`make fuzz`: the fuzz tests in their long form; DOORWARD_FUZZ_EXAMPLES says how many examples each test tries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = "20000"


def main() -> int:
    """Run them one by one, so that a failure of one does not hide the others."""
    environment = {"DOORWARD_FUZZ_EXAMPLES": EXAMPLES, **os.environ}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n2",
        "--dist=loadfile",
        "tests/fuzz",
        "tests/laws/test_json_laws.py",
    ]
    return subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
