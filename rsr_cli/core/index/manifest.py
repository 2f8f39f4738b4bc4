"""The manifest: what an index directory holds.

lake.rsr/
  manifest.json         replaced by one rename, so that a reader sees one generation and never a mixture
  lock                  held while a writer publishes
  segments/NAME/        never changed once the manifest names it
    vectors.npy         uint8 (n, bytes) of codes, float32 (n, dim) of embeddings
    records.sqlite      ids and records
    bbox.npy times.npy labels.npy label_ends.npy      columns to filter by
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from rsr_cli.core.errors import IndexFormatError
from rsr_cli.core.files import reason, whole_file
from rsr_cli.core.records.foreign import has_records
from rsr_cli.core.records.space import Space

SCHEMA_VERSION = 2
MANIFEST, SEGMENTS, LOCK, VECTORS = "manifest.json", "segments", "lock", "vectors.npy"
#: What an index of an earlier schema consists of, so that it can be replaced.
EARLIER = frozenset({MANIFEST, "vectors.faiss", "records.sqlite"})


def segment_name(generation: int) -> str:
    """Return the name of the segment that a generation of the index adds."""
    return f"{generation:06d}"


@dataclass(frozen=True)
class SegmentFacts:
    """A segment as the manifest states it.

    Attributes
    ----------
    name : str
        Its directory below ``segments``.
    count : int
        Number of rows.
    files : dict
        File name -> ``size`` in bytes and ``sha256``.
    """

    name: str
    count: int
    files: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes
    ----------
    schema_version : int
        Version of the directory's layout.
    generation : int
        Raised by one with every change of the index.
    metric : str
        ``hamming`` for codes, else ``l1``, ``l2``, ``cosine`` or ``dot``.
    space : Space or None
        The vectors' space; ``None`` in an empty index.
    max_norm : float
        Greatest Euclidean norm of an embedding, for the bound on rounding errors; 0 for codes.
    gsd : tuple of float or None
        Least and greatest ground sample distance of the records, in metres; ``None`` if none states it.
    segments : tuple of SegmentFacts
        In row order; none in an empty index.
    deletions : tuple of int
        Rows that are no longer part of the index.
    made_with : dict
        Versions.
    arguments : list of str
        The command line.
    """

    generation: int
    metric: str
    space: Space | None
    max_norm: float
    gsd: tuple[float, float] | None
    segments: tuple[SegmentFacts, ...]
    made_with: dict[str, str]
    arguments: list[str]
    deletions: tuple[int, ...] = field(default=())
    schema_version: int = SCHEMA_VERSION

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(segment.count for segment in self.segments)

    def following(self, last: Manifest) -> Manifest:
        """Return this manifest as the generation after another one, its new segments named after it."""
        generation = last.generation + 1
        segments = tuple(replace(segment, name=segment_name(generation)) for segment in self.segments)
        return replace(self, generation=generation, segments=segments)

    def write(self, index: Path) -> None:
        """Replace the manifest of an index, atomically."""
        with whole_file(index / MANIFEST, overwrite=True) as file:
            file.write(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))

    @classmethod
    def read(cls, index: Path) -> Manifest:
        """Read the manifest of an index.

        Raises
        ------
        IndexFormatError
            The directory is not an index, is damaged, or is of another version.
        """
        place = str(index)
        try:
            facts = orjson.loads((index / MANIFEST).read_bytes())
        except FileNotFoundError:
            what = "is not an index: it has no manifest.json" if index.is_dir() else "no such index"
            raise IndexFormatError(what, place) from None
        except NotADirectoryError:
            what = "is a file and not an index, which is a directory"
            raise IndexFormatError(what, place, remedy="index-first" if has_records(place) else None) from None
        except OSError as error:
            raise IndexFormatError(f"its manifest.json cannot be read: {reason(error)}", place) from None
        except orjson.JSONDecodeError as error:
            raise IndexFormatError(f"its manifest.json is damaged: {error}", place, remedy="rebuild") from None
        version = facts.get("schema_version") if isinstance(facts, dict) else None
        if version != SCHEMA_VERSION:
            raise IndexFormatError(
                f"is an index of schema {version}, and this version reads schema {SCHEMA_VERSION}",
                place,
                remedy="rebuild",
            )
        try:
            facts["space"] = Space(**facts["space"]) if facts["space"] else None
            facts["segments"] = tuple(SegmentFacts(**segment) for segment in facts["segments"])
            facts["gsd"] = tuple(facts["gsd"]) if facts["gsd"] else None
            facts["deletions"] = tuple(facts["deletions"])
            return cls(**facts)
        except (TypeError, KeyError) as error:
            raise IndexFormatError(f"its manifest.json is damaged: {error}", place, remedy="rebuild") from None
