"""The shell blocks of a page, run in order as a reader would, and the output that the page shows."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: A block to run, and the block ``text`` directly below it, if any, with what it writes to stdout.
BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", flags=re.DOTALL | re.MULTILINE)


def run_page(page: Path, folder: Path, path: str) -> str:
    """Return what the shell blocks of a page write to stdout, each run in ``folder`` with ``path`` as PATH."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RSR_")}
    env |= {"PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    written = ""
    for script, shown in BLOCK.findall(page.read_text()):
        shell = ["bash", "-e", "-o", "pipefail", "-c", script]
        done = subprocess.run(shell, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{page.name}: {script}\n{done.stderr}"
        if shown:
            assert done.stdout == shown, f"{page.name}: {script}"
        written += done.stdout
    return written
