"""The manifest: what an index directory holds.

lake.rsr/
  manifest.json         replaced by one rename, so that a reader sees one generation and never a mixture
  lock                  held while a writer publishes
  generations/          manifests that were replaced, as long as readers may hold them
  segments/NAME/        files never change once a manifest names them
    vectors.npy         uint8 (n, bytes) of codes; int8, float16 or float32 (n, dim) of embeddings
    scan.npy            uint8 (bytes,): the codes again, in the order of faiss's fast scan
    refine.npy          int8, float16 or float32 (n, dim): the embeddings beside codes
    scales.npy          float32 (n,): what each row of embeddings is multiplied by, see `stored.py`
    records.sqlite      ids and records
    ids.npy             uint32 (n,): digests of the ids, sorted
    bbox.npy times.npy labels.npy label_ends.npy      columns to filter by
    transform.safetensors codebook.safetensors    what was learned to transform the embeddings, and for the codes
    deleted-NAME.npy    int64: rows that are deleted as of this generation, sorted
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson

from rsr_cli.core.errors import IndexFormatError, RecordError
from rsr_cli.core.files import reason, whole_file
from rsr_cli.core.forms import is_parquet
from rsr_cli.core.inputs import open_regular, read_file
from rsr_cli.core.records.foreign import has_records
from rsr_cli.core.records.space import MAX_SIZE, Space

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

SCHEMA_VERSION = 2
MANIFEST, SEGMENTS, LOCK, GENERATIONS = "manifest.json", "segments", "lock", "generations"
VECTORS, TABLE = "vectors.npy", "records.sqlite"
TRANSFORM, CODEBOOK = "transform.safetensors", "codebook.safetensors"
HAMMING = "hamming"
#: Pattern of the name of a segment or generation.
NAME = "[0-9]{6,16}"
#: Metrics of embeddings, the default first.
METRICS = ("cosine", "l1", "l2", "dot")
#: What embeddings may be stored as.
DTYPES = ("int8", "float16", "float32")
MAX_NORM = 1e18  # its square, and the square of a difference, are float32
MAX_GENERATION = 10**15
#: What an index of an earlier schema consists of, so that it can be replaced.
EARLIER = frozenset({MANIFEST, "vectors.faiss", "records.sqlite"})


#: Into how many partitions rows are divided: ``auto``, a number, or ``None`` for none.
Divided = Literal["auto"] | int | None


def metric_of(space: Space | None, metric: str | None) -> str:
    """Return how vectors of a space are compared, of embeddings by the one that is asked for.

    Codes that are fitted have a distance of their own, which is about the cosine's.
    """
    if space is None or space.kind == "code":
        return "cosine" if space and space.facts.get("fit") else HAMMING
    return metric or METRICS[0]


def learned_for(space: Space) -> dict[str, str]:
    """Return what was learned from a sample that vectors of a space need: file of a segment -> its short digest."""
    transform, fit = space.facts.get("transform"), space.facts.get("fit") if space.kind == "code" else None
    return ({TRANSFORM: transform["fit"]} if transform else {}) | ({CODEBOOK: fit} if fit else {})


def has_scales(dtype: str, metric: str) -> bool:
    """Return whether embeddings that are stored so have a scale per row."""
    return dtype == "int8" or (dtype == "float16" and metric == "cosine")


def numbered(number: int) -> str:
    """Return the name of a segment or generation."""
    return f"{number:06d}"


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
    deletions : str or None
        Name of the file that lists the deleted rows, if any is.
    deleted : int
        Number of deleted rows.
    partitions : dict or None
        What `PartitionFacts` states, if the rows are divided.
    """

    name: str
    count: int
    files: dict[str, dict[str, Any]]
    deletions: str | None = None
    deleted: int = 0
    partitions: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise ValueError if a value is of another type, or the name of a file leads elsewhere."""
        if not isinstance(self.name, str) or not re.fullmatch(NAME, self.name):
            raise ValueError(f"{self.name!r} is not the name of a segment")
        if type(self.count) is not int or self.count < 1:
            raise ValueError(f"{self.count!r} is not a number of rows")
        names = self.files if isinstance(self.files, dict) else {}
        if not names or not all(re.fullmatch(r"\w[\w.-]*", name) for name in names):
            raise ValueError("it does not name the files of a segment")
        if not all(isinstance(file, dict) and type(file.get("size")) is int for file in names.values()):
            raise ValueError("a file of a segment has no size")
        if type(self.deleted) is not int or not 0 <= self.deleted <= self.count:
            raise ValueError(f"{self.deleted!r} is not a number of deleted rows")
        if (self.deletions is None) != (not self.deleted) or self.deletions not in (None, *names):
            raise ValueError("a segment does not name the file of its deletions")
        if self.partitions is not None:
            count = self.partitions.get("count") if isinstance(self.partitions, dict) else None
            if type(count) is not int or count < 1:
                raise ValueError("the partitions of a segment have no number")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file["size"] for file in self.files.values())


@dataclass(frozen=True)
class Refine:
    """The embeddings that an index stores beside its codes, which were made of them.

    Attributes
    ----------
    dtype : str
        One of `DTYPES`.
    metric : str
        One of `METRICS`.
    dim : int
        Their dimensions.
    """

    dtype: str
    metric: str
    dim: int

    def __str__(self) -> str:
        return f"{self.dtype}, {self.dim} dimensions, {self.metric}"

    def check(self) -> None:
        """Raise ValueError if a value is unknown or of another type."""
        if self.dtype not in DTYPES or self.metric not in METRICS:
            raise ValueError(f"its embeddings are {self.dtype!r}, compared by {self.metric!r}, which is unknown")
        if type(self.dim) is not int or not 1 <= self.dim <= MAX_SIZE:
            raise ValueError(f"its embeddings have {self.dim!r} dimensions")


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
    extent : tuple of float or None
        Least and greatest extent of their tiles on the ground, likewise (`extent_of`); an older index states none.
    stored : str or None
        What embeddings are stored as, one of `DTYPES`; ``None`` of codes, and of an older index, which stores float32.
    refine : Refine or None
        The embeddings beside the codes, if they are stored.
    segments : tuple of SegmentFacts
        In row order; none in an empty index.
    partitions : str, int or None
        Into how many partitions a new segment of all rows is divided, ``auto`` for a number that suits it.
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
    extent: tuple[float, float] | None = None
    stored: str | None = None
    refine: Refine | None = None
    partitions: Divided = None
    schema_version: int = SCHEMA_VERSION

    @property
    def count(self) -> int:
        """Number of rows that are not deleted."""
        return sum(segment.count - segment.deleted for segment in self.segments)

    @property
    def dtype(self) -> str:
        """What the vectors are stored as."""
        return "uint8" if self.space is None or self.space.kind == "code" else self.stored or "float32"

    @property
    def scaled(self) -> bool:
        """Whether the vectors have scales: of float16 that is compared by cosine, they make its lengths 1."""
        return has_scales(self.dtype, self.metric)

    def extended(self, other: Manifest) -> Manifest:
        """Return this manifest with the new segments of another one, of the same space and metric, after its own."""
        if not other.segments:
            return self
        both = zip(self.ranges, other.ranges, strict=True)
        gsds, extents = ([*(mine or ()), *(theirs or ())] for mine, theirs in both)
        return replace(
            self,
            metric=other.metric,
            space=self.space or other.space,
            stored=self.stored or other.stored,
            refine=self.refine or other.refine,
            max_norm=max(self.max_norm, other.max_norm),
            gsd=(min(gsds), max(gsds)) if gsds else None,
            extent=(min(extents), max(extents)) if extents else None,
            segments=(*self.segments, *other.segments),
            partitions=self.partitions or other.partitions,
            made_with=other.made_with,
            arguments=other.arguments,
        )

    @property
    def ranges(self) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """The ranges of gsd and extent."""
        return self.gsd, self.extent

    def write(self, index: Path) -> None:
        """Replace the manifest of an index, atomically.

        Raises
        ------
        IndexFormatError
            It is not one that could be read, as its numbers would be too large.
        """
        try:
            self.check()
        except (ValueError, RecordError) as error:
            raise IndexFormatError(f"cannot be changed any more: {error}", str(index), remedy="rebuild") from None
        with whole_file(index / MANIFEST, overwrite=True) as file:
            facts = asdict(self)
            file.write(orjson.dumps({**facts, "sha256": _digest(facts)}, option=orjson.OPT_INDENT_2))

    @classmethod
    def read(cls, index: Path) -> Manifest:
        """Read the manifest of an index, as `open` does."""
        manifest, file = cls.open(index, index / MANIFEST)
        file.close()
        return manifest

    @classmethod
    def open(cls, index: Path, path: Path) -> tuple[Manifest, FileIO]:
        """Read a manifest of an index, and return its open file too.

        Raises
        ------
        IndexFormatError
            The directory is not an index, is damaged, or is of another version.
        """
        place = str(index)
        try:
            file = open_regular(path)
            try:
                return cls._parse(read_file(file), place), file
            except BaseException:
                file.close()
                raise
        except FileNotFoundError:
            what = "is not an index: it has no manifest.json" if index.is_dir() else "no such index"
            raise IndexFormatError(what, place) from None
        except NotADirectoryError:
            what = "is a file and not an index, which is a directory"
            remedy = "index-first" if has_records(place) or is_parquet(place) else None
            raise IndexFormatError(what, place, remedy=remedy) from None
        except OSError as error:
            raise IndexFormatError(f"its manifest.json cannot be read: {reason(error)}", place) from None

    @classmethod
    def _parse(cls, data: bytes, place: str) -> Manifest:
        try:
            facts = orjson.loads(data)
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
            if facts.pop("sha256", digest := _digest(facts)) != digest:  # an older version states none
                raise ValueError("it has not the sha256 that it states")
            facts["space"] = Space(**facts["space"]) if facts["space"] else None
            facts["segments"] = tuple(SegmentFacts(**segment) for segment in facts["segments"])
            facts["gsd"] = tuple(facts["gsd"]) if facts["gsd"] else None
            facts["extent"] = tuple(facts["extent"]) if facts.get("extent") else None
            facts["refine"] = Refine(**facts["refine"]) if facts.get("refine") else None
            if facts.pop("deletions", None):  # of the whole index, which no version has written
                raise ValueError("it states deletions of no segment")
            manifest = cls(**facts)
            manifest.check()
        except (TypeError, KeyError, ValueError, RecordError) as error:
            raise IndexFormatError(f"its manifest.json is damaged: {error}", place, remedy="rebuild") from None
        return manifest

    def check(self) -> None:
        """Raise ValueError or RecordError if a value that is used is of another type, or beyond what it can be."""
        if self.space is not None:
            self.space.check()
            if not isinstance(self.space.recipe, dict):
                raise ValueError("its recipe is not an object")
        if self.metric not in (HAMMING, *METRICS):
            raise ValueError(f"its metric {self.metric!r} is unknown")
        if (self.space is None) != (not self.segments) or self.metric != metric_of(self.space, self.metric):
            raise ValueError("metric, space and segments do not fit together")
        if self.space and self.space.kind == "embedding" and self.metric == HAMMING:
            raise ValueError("its embeddings have a metric of codes")
        if self.stored is not None and (self.stored not in DTYPES or self.space is None or self.space.kind == "code"):
            raise ValueError(f"its vectors are stored as {self.stored!r}, which is unknown")
        if self.refine is not None:
            self.refine.check()
            if self.space is None or self.space.kind == "embedding":
                raise ValueError("it states embeddings beside codes that it has not")
        ranges = [found for found in self.ranges if found is not None]
        metres = [number for found in ranges for number in found]
        if not _are([self.max_norm, *metres], int, float) or any(len(found) != 2 for found in ranges):
            raise ValueError("max_norm, gsd or extent is not a number")
        if not 0 <= self.max_norm <= MAX_NORM or not all(0 < number < math.inf for number in metres):
            raise ValueError("max_norm, gsd or extent is out of range")
        if type(self.generation) is not int or not 1 <= self.generation <= MAX_GENERATION:
            raise ValueError(f"its generation is not a number from 1 to {MAX_GENERATION}")
        if self.partitions not in (None, "auto") and not (type(self.partitions) is int and self.partitions > 0):
            raise ValueError("its partitions are not a number")
        made_with = self.made_with if isinstance(self.made_with, dict) else {"": None}
        if not _are(made_with.values(), str) or not isinstance(self.arguments, list) or not _are(self.arguments, str):
            raise ValueError("its versions or arguments are not text")
        for segment in self.segments:
            segment.check()
        if len({segment.name for segment in self.segments}) < len(self.segments):
            raise ValueError("it names a segment twice")


def _digest(facts: dict[str, Any]) -> str:
    """Return the sha256 of all that a manifest states but its own."""
    stated = {name: value for name, value in facts.items() if name != "sha256"}
    return hashlib.sha256(orjson.dumps(stated, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _are(values: Any, *types: type) -> bool:
    return all(type(value) in types for value in values)
