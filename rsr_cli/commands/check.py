"""``rsr check``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.errors import IndexFormatError, visible
from rsr_cli.core.forms import TABLE
from rsr_cli.core.progress import Progress
from rsr_cli.core.records.parts import is_parts
from rsr_cli.remedies import explain

log = logging.getLogger("rsr")


@click.command(cls=options.Command)
@click.argument("indexes", nargs=-1, required=True, type=options.File(), metavar="INDEX...")
@options.verbosity
def check(indexes: tuple[str, ...]) -> None:
    """Check the files of an index against their checksums.

    Reads every file of the index whole, and compares its size and its sha256 with those that were written down when it
    was built. Prints OK for an index that is as it was, and names on stderr each file of the others that is not; then
    the exit status is 1.
    """
    from rsr_cli.core.index import integrity

    damaged: list[IndexFormatError] = []
    with files.Output(None, TABLE) as out, Progress("bytes") as progress:
        for name in indexes:
            known = len(damaged)
            try:
                if is_parts(name):
                    raise IndexFormatError("is a directory of parts, and no index", name, remedy="info-parts")
                for read in integrity.check(Path(name), damaged.append):
                    progress.update(read)
            except IndexFormatError as error:
                error.remedy = None if error.remedy == "index-first" else error.remedy
                damaged.append(error)
            if len(damaged) == known:
                out.write([f"{visible(name)}: OK\n".encode()])
        for each in damaged[:-1]:
            log.error("%s", explain(each))
        if damaged:
            raise damaged[-1]
