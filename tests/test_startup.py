"""What starting `rsr` loads, which modules may import what, and that it is told the same everywhere."""

import ast
import importlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest
from support import drawn_lines

import rsr_cli
from rsr_cli.main import COMMANDS

RSR = Path(sys.executable).with_name("rsr")
PACKAGE = Path(rsr_cli.__file__).parent
MODULES = {
    ".".join(("rsr_cli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
HEAVY = {
    *("torch", "torchvision", "terratorch", "faiss", "rasterio", "pyarrow", "scipy", "openvino"),
    *("sklearn", "matplotlib", "PIL", "jinja2", "pystac"),
}
# Library -> the modules, or packages, that may import it; a library that is not here may be imported by all
IMPORTERS = {
    "click": ("rsr_cli.main", "rsr_cli.options", "rsr_cli.commands"),
    "rasterio": ("rsr_cli.core.rasters", "rsr_cli.core.records.geometry"),
    "faiss": ("rsr_cli.core.fitted", "rsr_cli.core.index"),
    "matplotlib": ("rsr_cli.core.figures.canvas", "rsr_cli.core.figures.map", "rsr_cli.core.figures.plots"),
    "sklearn": ("rsr_cli.core.figures.projection",),
    **dict.fromkeys(("PIL", "jinja2"), ("rsr_cli.core.figures.page",)),
    **dict.fromkeys(("torch", "terratorch", "huggingface_hub"), ("rsr_cli.core.encoders",)),
    "safetensors": ("rsr_cli.core.encoders", "rsr_cli.core.fitted"),
    "majortom_eg": ("rsr_cli.core.rasters.grids",),
    "openvino": ("rsr_cli.core.encoders.int8",),
    "pyarrow": ("rsr_cli.core.records", "rsr_cli.core.sources.bigearthnet"),
    "pystac": ("rsr_cli.core.sources.stac",),
    "cql2": ("rsr_cli.core.search.condition",),
}


def loaded(*arguments, **variables):
    """Run rsr, and name the packages that it imported and what it wrote."""
    # Python writes a line on stderr for each import: "import time: 34 | 56 | name"
    env = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1", **variables}
    done = subprocess.run([RSR, *arguments], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}, done.stdout


def imported(name):
    """Name the modules that a module imports, wherever in it."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("arguments", ["--help", "--version", *(f"{name} --help" for name in COMMANDS)])
def test_help_loads_nothing_heavy(arguments):
    packages, stdout = loaded(*arguments.split())
    assert "rsr_cli" in packages
    assert not packages & {*HEAVY, "numpy"}
    assert stdout


@pytest.mark.parametrize(
    "words", ["rsr bina", "rsr binarize --method ", "rsr embed --pre", "rsr query ", "rsr score --match "]
)
def test_completion_loads_nothing_heavy(words):
    before = words.split(" ")
    packages, stdout = loaded(_RSR_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(before) - 1))
    assert "rsr_cli" in packages
    assert not packages & {*HEAVY, "numpy"}
    assert stdout


def test_score_needs_nothing_heavy(tmp_path):
    hits = tmp_path / "hits.geojsonl"
    properties = '{"query":"b","rank":1,"distance":0,"labels":["lake"],"query_labels":["lake"]}'
    hits.write_text(f'{{"type":"Feature","id":"a","geometry":null,"properties":{properties}}}\n')
    packages, stdout = loaded("score", hits)
    assert not packages & HEAVY
    assert stdout


def test_indexing_a_table_does_not_load_pandas(tmp_path):
    """pyarrow imports it, where it is installed, once an array of Python's or numpy's becomes one of its own."""
    facts = b'"properties":{"datetime":"2024-06-01T10:36:29Z","gsd":10.0,"labels":["lake"],"proj:shape":[8,8],'
    (tmp_path / "in.geojsonl").write_bytes(drawn_lines(100).replace(b'"properties":{', facts))
    subprocess.run([RSR, "binarize", "in.geojsonl", "-o", "codes.parquet"], cwd=tmp_path, check=True, timeout=60)
    packages, _ = loaded("index", tmp_path / "codes.parquet", "-o", tmp_path / "x.rsr")
    assert "pyarrow" in packages
    assert "pandas" not in packages


def test_the_rules_reach_the_modules():
    assert {"rsr_cli.main", "rsr_cli.options", "rsr_cli.core.rasters", "rsr_cli.core.encoders.base"} < MODULES.keys()
    assert {f"rsr_cli.commands.{name}" for name in COMMANDS} < MODULES.keys()
    for library in IMPORTERS:
        assert any(within(target, library) for name in MODULES for target in imported(name))


@pytest.mark.parametrize("name", MODULES)
def test_libraries_stay_in_their_modules(name):
    for target in imported(name):
        for library, homes in IMPORTERS.items():
            assert not within(target, library) or within(name, *homes), f"{name} imports {target}"


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "rsr_cli.core")])
def test_the_core_knows_nothing_above_it(name):
    below = ("rsr_cli.core", "rsr_cli.__version__")
    ours = [target for target in imported(name) if within(target, "rsr_cli") and target != "rsr_cli"]
    assert [target for target in ours if not within(target, *below)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "rsr_cli.commands")])
def test_commands_do_not_know_each_other(name):
    assert [target for target in imported(name) if within(target, "rsr_cli.commands", "rsr_cli.main")] == []


def test_version_is_the_distribution_s():
    version = importlib.metadata.version("rsr-cli")
    assert rsr_cli.__version__ == version
    _, stdout = loaded("--version")
    assert version in stdout.split()


@pytest.mark.parametrize("name", COMMANDS)
def test_listed_help_is_the_command_s(name):
    command = getattr(importlib.import_module(f"rsr_cli.commands.{name}"), name)
    assert command.name == name
    assert inspect.cleandoc(command.help).splitlines()[0] == COMMANDS[name]
