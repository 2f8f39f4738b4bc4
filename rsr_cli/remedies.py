"""What to type when the core raises an error: the core states facts, and this table names the option that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsr_cli.core.errors import RsrError

#: Name of a remedy, as an error of the core carries it -> what a user types.
REMEDIES = {
    "binarize": "pass the stream through rsr binarize",
    "bits": "pass --bits",
    "embed": "pass the stream through rsr embed",
    "labels": "label the tiles before rsr index, or pass the labels to --truth",
    "one-run": "pass the hits of one run at a time",
    "overwrite": "pass --overwrite to replace it",
    "query": "pass the records through rsr query",
    "rebuild": "build it again with rsr index",
    "same-space": "make both with the same settings, or keep them apart",
    "seed": "leave --seed out",
    "sqlite-tmpdir": "set SQLITE_TMPDIR to a directory with more space",
    "three-bands": "choose three that it has with --bands",
    "truth": "pass to --truth the records that were indexed",
    "unique-ids": "see rsr tile --id-prefix",
}


def explain(error: RsrError) -> str:
    """Return an error as one line: its place, what is wrong, and what helps."""
    return f"{error}; {REMEDIES[error.remedy]}" if error.remedy else str(error)
