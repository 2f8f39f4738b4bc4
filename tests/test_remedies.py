"""Every remedy that the core names is one that users can read."""

import ast
from pathlib import Path

import pytest

import rsr_cli
from rsr_cli.core.errors import RsrError
from rsr_cli.remedies import REMEDIES, explain

CORE = Path(rsr_cli.__file__).parent / "core"


def named(path):
    """Return the names in ``remedy="NAME"`` in a module."""
    keywords = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.keyword))
    return {
        keyword.value.value
        for keyword in keywords
        if keyword.arg == "remedy" and isinstance(keyword.value, ast.Constant) and keyword.value.value
    }


@pytest.mark.parametrize(
    "path", [path for path in sorted(CORE.rglob("*.py")) if named(path)], ids=lambda path: path.name
)
def test_remedies_of_the_core_are_explained(path):
    assert named(path) <= REMEDIES.keys()


def test_remedies_are_sorted():
    assert list(REMEDIES) == sorted(REMEDIES)


def test_an_error_is_explained_in_one_line():
    error = RsrError("exists\nalready", "a.tif", remedy="overwrite")
    assert explain(error) == f"a.tif: exists already; {REMEDIES['overwrite']}"
    assert explain(RsrError("failed")) == "failed"
