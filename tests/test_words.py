"""Help texts and manual pages use the words of CONTRIBUTING.md."""

import re
from pathlib import Path

import click
import pytest
from support import script

from rsr_cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[1]
build = script(ROOT / "man" / "build.py")


def words_to_avoid():
    """Return the terms in the right column of the table in the section Words, in lower case."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Words\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| *(.*?) *\| *(.*?) *\|$", section, re.MULTILINE)
    assert rows[0] == ("word we use", "not")
    return [term.strip().lower() for _, terms in rows[2:] for term in terms.split(",") if term]


AVOID = re.compile(
    r"\b(" + "|".join(re.escape(term).replace(r"\ ", r"\s+") for term in words_to_avoid()) + r")\b", re.I
)


def avoided(text):
    """Return the terms to avoid that a text contains, each in the words around it."""
    return [" ".join(text[max(0, m.start() - 30) : m.end() + 30].split()) for m in AVOID.finditer(text)]


def test_the_table_is_read():
    terms = words_to_avoid()
    assert {"picture", "data set", "told", "hits a query"} <= set(terms)
    assert len(avoided("A Data\nset has PICTURES. The footprint is depicted, and several datasets.")) == 2


@pytest.mark.parametrize("name", ["rsr", *COMMANDS])
def test_help_uses_our_words(name):
    with cli.make_context("rsr", [], resilient_parsing=True) as top:
        command = cli if name == "rsr" else cli.get_command(top, name)
        text = command.get_help(top if name == "rsr" else click.Context(command, top, name))
    assert "Options:" in text
    assert avoided(text) == []


@pytest.mark.parametrize("name", ["rsr", *(f"rsr-{command}" for command in COMMANDS)])
def test_the_manual_uses_our_words(name):
    roff = build.pages()[f"{name}.1"]
    assert avoided(re.sub(r"\\f[BIR]|\\:|\\&", "", roff).replace(r"\-", "-").replace(r"\(aq", "'")) == []
