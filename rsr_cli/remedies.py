"""What to type when the core raises an error: the core states facts, and this table names the option that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsr_cli.core.errors import RsrError

#: Name of a remedy, as an error of the core carries it -> what a user types.
REMEDIES = {
    "as index": "make them with the same settings",
    "bands": "pass --bands with one name per band, - for a band that is not used",
    "bits": "pass --bits",
    "build again": "build it again with rsr index",
    "chips": "pass --chips with another directory",
    "fill-missing": "pass --fill-missing mean to use the model's mean",
    "id-prefix": "name the directory above both, rename it, or tile it on its own with --id-prefix",
    "make codes": "pass the stream through rsr binarize",
    "make embeddings": "pass the stream through rsr embed",
    "min-valid": "pass --min-valid 0 to keep every tile",
    "offset": "pass --offset too",
    "overwrite": "pass --overwrite to replace it",
    "per-band": "pass --per-band with the directory that contains all of them",
    "same space": "make both with the same settings, or keep them apart",
    "scale": "pass --scale and --offset: reflectance x 10000 = DN * scale + offset",
    "seed": "leave --seed out",
    "sensor-or-bands": "pass --sensor, or --bands with one name per band",
    "smaller": "pass --whole, a smaller --size, or --edge pad",
    "unique ids": "see rsr tile --id-prefix",
}


def explain(error: RsrError) -> str:
    """Return an error as one line: its place, what is wrong, and what helps."""
    return f"{error}; {REMEDIES[error.remedy]}" if error.remedy else str(error)
