"""What the tests of faults share, and the count of their rounds at the end."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from faults.harness import Faults, Programs


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    """Return the library that disturbs calls."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-o", made], check=True)
    return made


@pytest.fixture(scope="session")
def _programs(shim, tmp_path_factory):
    programs = Programs(tmp_path_factory.mktemp("programs"), shim)
    yield programs
    programs.close()


@pytest.fixture(scope="session")
def _faults(_programs, tmp_path_factory, write_raster):
    return Faults(tmp_path_factory.mktemp("faults"), _programs, write_raster)


@pytest.fixture
def faults(_faults, record_property, request):
    """Return what runs rounds of commands that are disturbed; the rounds of each test are counted."""
    _faults.rounds = 0
    yield _faults
    record_property("faults", (request.node.originalname.removeprefix("test_").replace("_", " "), _faults.rounds))


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how many rounds of each kind were run."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "faults" and report.when == "teardown":
                    counts[value[0]] += value[1]
    if counts:
        terminalreporter.section("rounds with faults")
        for kind, count in sorted(counts.items()):
            terminalreporter.line(f"{count:>9,}  {kind}")
