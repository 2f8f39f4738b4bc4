"""Write the manual pages from the commands' help texts and from sections.toml.

    python man/build.py [DIRECTORY]

The pages depend on nothing else, so a changed help text shows as a changed page.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_cli.main import COMMANDS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
SPECIAL = {
    "\\": r"\e",
    "-": r"\-",
    "'": r"\(aq",
    '"': r"\(dq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
    "|": r"|\:",  # allows a line break after it
}
# In running text, an option or the name of a manual page.
LITERAL = re.compile(r"(?<![\w-])(?:--?[a-zA-Z][\w-]*|rsr(?:-[a-z]+)?\(1\))")


def escape(text: str) -> str:
    """Escape text so that roff shows every character as it is, ready to copy into a shell."""
    escaped = "".join(SPECIAL.get(char, char if char.isascii() else rf"\[u{ord(char):04X}]") for char in text)
    return re.sub(r"(?m)^(?=\.)", r"\\&", escaped)


def bold(text: str) -> str:
    """Return text in bold."""
    return rf"\fB{escape(text)}\fR"


def styled(text: str) -> str:
    """Escape a line of running text, with options and names of pages in bold."""
    pieces, end = [], 0
    for found in LITERAL.finditer(text):
        name, section, _ = found[0].partition("(1)")
        pieces += [escape(text[end : found.start()]), bold(name), section]
        end = found.end()
    return "".join([*pieces, escape(text[end:])])


def usage(text: str) -> str:
    """Escape an option's names or a synopsis: literal text in bold, placeholders in italics."""
    plain = re.sub(r"(?<![\w-])--?[a-zA-Z][\w-]*|[A-Z]{2,}|\b[A-Z]\b", "\0\\g<0>\0", text)
    fonts = ("", "I", "B")
    return "".join(
        rf"\f{fonts[1 + piece.startswith('-')]}{escape(piece)}\fR" if number % 2 else escape(piece)
        for number, piece in enumerate(plain.split("\0"))
    )


def paragraph(text: str) -> Iterator[str]:
    """Yield running text in short lines, for readable diffs."""
    for line in textwrap.wrap(text, 78, break_long_words=False, break_on_hyphens=False):
        yield styled(line)


def body(content: str | dict[str, str]) -> Iterator[str]:
    """Yield the lines of a section: a table of terms and their meanings, or paragraphs and examples.

    The empty term introduces a table. In text, a paragraph that starts with ``$`` is an example, and a paragraph that
    starts with a backspace keeps its line breaks, as in click's help texts.
    """
    if isinstance(content, dict):
        for term, meaning in content.items():
            yield from (".TP", bold(term)) if term else ()
            yield from paragraph(meaning)
        return
    for number, block in enumerate(re.split(r"\n{2,}", content.strip())):
        verbatim = block[2:] if block.startswith("$ ") else block.partition("\b\n")[2]
        if verbatim:
            yield from (".PP", ".RS 4", ".nf", escape(textwrap.dedent(verbatim)), ".fi", ".RE")
        else:
            yield from [".PP"] if number else ()
            yield from paragraph(block)


def options(ctx: click.Context, arguments: dict[str, str]) -> Iterator[str]:
    """Yield the lines that describe a command's arguments, and its options as its help does."""
    for param in ctx.command.get_params(ctx):
        if isinstance(param, click.Argument):
            names = param.make_metavar(ctx)
            yield from (".TP", usage(names), *paragraph(arguments[names]))
        elif record := param.get_help_record(ctx):
            yield from (".TP", usage(record[0].replace(" RANGE", "")), *paragraph(record[1]))


def variables(ctx: click.Context) -> list[str]:
    """Return the environment variables that set defaults of a command's options."""
    shown = [copy.copy(param) for param in ctx.command.params if isinstance(param, click.Option) and param.expose_value]
    for option in shown:
        option.show_envvar = True
    return [name for option in shown for name in option.get_help_extra(ctx).get("envvars", ())]


def page(ctx: click.Context, written: dict[str, Any]) -> str:
    """Return one manual page.

    Parameters
    ----------
    ctx : click.Context
        Context of the command.
    written : dict
        Contents of sections.toml.

    Returns
    -------
    str
        roff with man macros.
    """
    name = ctx.command_path.replace(" ", "-")
    own = written[name]
    first, _, rest = inspect.cleandoc(ctx.command.help or "").partition("\n\n")
    summary = " ".join(first.split()).rstrip(".")
    pages = ["rsr", *(f"rsr-{command}" for command in COMMANDS)]
    environment = {term: written["environment"][term] for term in own["environment"]}
    own_variables = variables(ctx)
    skips = name == "rsr" or any("--keep-going" in param.opts for param in ctx.command.params)
    sections: dict[str, list[str]] = {
        "NAME": [rf"{escape(name)} \- {escape(summary[0].lower() + summary[1:])}"],
        "SYNOPSIS": [f"{bold(ctx.command_path)} {usage(' '.join(ctx.command.collect_usage_pieces(ctx)))}"],
        "DESCRIPTION": [*body(rest or first)],
        "COMMANDS": [
            line
            for command, short in (COMMANDS.items() if name == "rsr" else ())
            for line in (".TP", f"{bold(f'rsr-{command}')}(1)", escape(short))
        ],
        "OPTIONS": [*options(ctx, written["arguments"])],
        **{title: [*body(content)] for title, content in own.get("sections", {}).items()},
        "EXIT STATUS": [*body({term: text for term, text in written["exit-status"].items() if skips or term != "3"})],
        "ENVIRONMENT": [
            *(paragraph(f"{written['variables']} {', '.join(own_variables)}.") if own_variables else ()),
            *body(environment),
        ],
        "FILES": [*body({term: written["files"][term] for term in own["files"]})],
        "EXAMPLES": [*body(own["examples"])],
        "SEE ALSO": [",\n".join(f"{bold(other)}(1)" for other in pages if other != name)],
    }
    head = [
        r".\" Written by man/build.py; do not edit.",
        f'.TH {escape(name.upper())} 1 "" rsr "rsr manual"',
        ".nh",  # a hyphenated name could not be copied
        ".ad l",
    ]
    lines = [*head, *(line for title, text in sections.items() if text for line in (f'.SH "{title}"', *text))]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return all manual pages.

    Returns
    -------
    dict of str to str
        File name -> roff.
    """
    written = tomllib.loads((HERE / "sections.toml").read_text())
    top = cli.make_context("rsr", [], resilient_parsing=True)
    contexts = [top]
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None
        contexts.append(command.make_context(name, [], parent=top, resilient_parsing=True))
    return {f"{ctx.command_path.replace(' ', '-')}.1": page(ctx, written) for ctx in contexts}


def main() -> None:
    """Write the pages to a directory."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, text in pages().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main()
