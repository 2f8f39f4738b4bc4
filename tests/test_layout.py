"""Which room of the core imports which: the drawing in docs/design.md against the code."""

from __future__ import annotations

import ast
import re
from importlib.util import resolve_name
from pathlib import Path

import rsr_cli
from rsr_cli.main import COMMANDS

CORE = Path(rsr_cli.__file__).parent / "core"
DESIGN = (Path(__file__).parents[1] / "docs" / "design.md").read_text()
DRAWING = re.search(r"```mermaid\n(.*?)```", DESIGN, re.DOTALL)[1]
FLOORS = [
    set(re.findall(r"\w+", floor)) for floor in re.findall(r'subgraph \w+ \[" "\]\n(.*?)    end', DRAWING, re.DOTALL)
]
GROUND = FLOORS[-1]


def imports(path: Path) -> set[str]:
    """Name the modules that a file imports, wherever in it, `if TYPE_CHECKING` included."""
    parts = ("rsr_cli", "core", *path.relative_to(CORE).with_suffix("").parts)
    package = ".".join(parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def edges() -> set[tuple[str, str]]:
    """Measure which room or module of the core imports which other one."""
    measured = set()
    for path in CORE.rglob("*.py"):
        room = path.relative_to(CORE).with_suffix("").parts[0]
        for name in imports(path):
            found = re.match(r"rsr_cli\.core\.(\w+)", name)
            if found and found[1] != room:
                measured.add((room, found[1]))
    return measured


def test_the_drawing_has_every_room():
    rooms = {path.name.removesuffix(".py") for path in CORE.iterdir() if not path.name.startswith("_")}
    assert set.union(*FLOORS) == rooms


def test_the_drawing_shows_the_imports():
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", DRAWING, re.MULTILINE)) - {("floor2", "ground")}
    measured = {(room, other) for room, other in edges() if other not in GROUND}
    assert drawn == measured


def test_a_room_knows_only_the_floors_below_it():
    height = {room: -number for number, floor in enumerate(FLOORS) for room in floor}
    upward = {(room, other) for room, other in edges() if height[other] >= height[room] and room not in GROUND}
    assert upward == set()
    order = ["progress", "inputs", "files", "forms", "reach", "times", "errors"]  # on the ground floor
    assert all(order.index(room) < order.index(other) for room, other in edges() if room in GROUND)


def test_the_core_names_no_flag_and_no_command():
    """Which flag helps is known to the command line: rsr_cli/remedies.py."""
    named = []
    for path in CORE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        documents = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in documents else None
            if isinstance(text, str) and re.search(rf"(?<![\w-])--[a-z][a-z-]+|\brsr ({'|'.join(COMMANDS)})\b", text):
                named.append((path.name, text))
    assert named == []
