"""What every test file shares: the real ``rsr``, and the real imagery where it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real imagery that lies beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real imagery is not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def rsr() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the real ``rsr`` in a process of its own."""

    def run(*arguments: object, input: bytes | None = None, cwd: object = None, env: dict[str, str] | None = None):  # noqa: A002
        return subprocess.run(
            [sys.executable, "-m", "rsr_cli.main", *map(str, arguments)],
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=300,
            check=False,
        )

    return run
