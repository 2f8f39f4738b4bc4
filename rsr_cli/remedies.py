"""What to type when the core raises an error: the core states facts, and this table names the option that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsr_cli.core.errors import RsrError

#: Name of a remedy, as an error of the core carries it -> what a user types.
REMEDIES = {
    "as index": "make them with the same settings",
    "batch-size": "pass a smaller --batch-size",
    "bits": "pass --bits",
    "build again": "build it again with rsr index",
    "datetime": "pass --datetime to rsr tile",
    "device": "leave out --device to use what is available",
    "download": "download the file elsewhere and pass --weights FILE",
    "make codes": "pass the stream through rsr binarize",
    "make embeddings": "pass the stream through rsr embed",
    "models": "rsr models --all lists them",
    "no-defaults": "pass --bands, --mean, --std and --size",
    "no-valid-pixel": "leave such tiles out with rsr tile --min-valid, or pass --keep-going",
    "overwrite": "pass --overwrite to replace it",
    "precision": "pass --precision fp32",
    "same space": "make both with the same settings, or keep them apart",
    "seed": "leave --seed out",
    "statistics": "pass both --mean and --std",
    "unique ids": "see rsr tile --id-prefix",
    "weights": "pass --weights FILE",
}


def explain(error: RsrError) -> str:
    """Return an error as one line: its place, what is wrong, and what helps."""
    return f"{error}; {REMEDIES[error.remedy]}" if error.remedy else str(error)
