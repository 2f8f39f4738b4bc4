"""Records in parts: a directory that grows part by part, so that a command that is stopped loses one part at most.

parts.json               what all parts have in common: the command, the vector space, the number of shards
shard-0.json             the parts of a shard that are whole, with their sizes and checksums, and whether they are all
part-0-000001.parquet    records, in the format that the ending states

A part counts once its shard's file names it, which is written anew after each. A run makes only what is missing. A part
is made of consecutive records of the input, so a run that goes on makes the parts that the first one would have made.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import asdict, dataclass, replace
from itertools import count as count_from
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from rsr_cli.core.errors import FingerprintError, OutputError, RecordError, RsrError, UsageError, counted
from rsr_cli.core.files import Lock, explained, reason, remove, whole_file
from rsr_cli.core.inputs import read_bytes, sha256_of
from rsr_cli.core.records import streams
from rsr_cli.core.records.fields import id_of
from rsr_cli.core.records.ids import among
from rsr_cli.core.records.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch

    #: What a command makes of records.
    Make = Callable[[Iterable[Batch]], Iterable[Batch]]

log = logging.getLogger("rsr")

COMMON = "parts.json"
SCHEMA_VERSION = 1
#: Records of a part.
DEFAULT_SIZE = 10_000
ENDINGS = ("parquet", "geojsonl")
_DIGEST_BYTES = 16
_OURS = re.compile(r"parts\.json|shard-\d+\.(json|lock)|part-\d+-\d+\.(parquet|geojsonl)")
MOST_SHARDS = 1_000_000


class Shard(NamedTuple):
    """A share of the work: which one, from 0, of how many."""

    number: int = 0
    of: int = 1

    def takes(self, ids: Sequence[str]) -> list[bool]:
        """Return which ids are of this shard; an id is of the same one on every machine."""
        if self.of == 1:
            return [True] * len(ids)
        return [int.from_bytes(each[:8], "little") % self.of == self.number for each in map(_digest, ids)]


WHOLE = Shard()


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


@dataclass(frozen=True)
class Part:
    """A part as its shard's file states it: the name of its file, its records, its bytes and their sha256."""

    name: str
    count: int
    size: int
    sha256: str

    @property
    def number(self) -> int:
        """Its place among the parts of its shard, from 1."""
        return int(self.name.split("-")[2].partition(".")[0])

    def fault(self, directory: Path) -> str | None:
        """Return what is wrong with the file, ``None`` if it is as it was written."""
        try:
            return None if sha256_of(directory / self.name) == self.sha256 else "is damaged"
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {reason(error)}"


@dataclass(frozen=True)
class State:
    """A shard: the parts that are whole, in their order, and whether a run has come to its end with them."""

    parts: tuple[Part, ...] = ()
    complete: bool = False

    @classmethod
    def read(cls, path: Path) -> State | None:
        """Read a shard's file, ``None`` if there is none; raise RsrError if it is damaged."""
        try:
            facts = _read(path)
            if facts is None:
                return None
            if not isinstance(facts["parts"], list):
                raise TypeError("its parts are no list")
            state = cls(tuple(Part(**each) for each in facts["parts"]), facts["complete"])
            number = path.stem.partition("-")[2]
            for part in state.parts:
                if not re.fullmatch(rf"part-{number}-\d{{6,12}}\.(parquet|geojsonl)", part.name):
                    raise ValueError("a part has another name")
                if not (type(part.count) is type(part.size) is int and isinstance(part.sha256, str)):
                    raise ValueError("a part has no numbers")
            if len({part.name for part in state.parts}) < len(state.parts) or type(state.complete) is not bool:
                raise ValueError("a part is there twice, or it is not known whether they are all")
            return state
        except (KeyError, TypeError, ValueError):
            raise RsrError("is damaged", str(path), remedy="remove-parts") from None


@dataclass(frozen=True)
class Common:
    """What all parts of a directory have in common: the command, the number of shards, and a vector space, or none."""

    command: str
    shards: int
    space: Space | None

    @classmethod
    def read(cls, directory: Path) -> Common | None:
        """Read it, ``None`` if there is none; raise RsrError if it is damaged, or of another version."""
        path = directory / COMMON
        try:
            facts = _read(path)
            if facts is None:
                return None
            if facts["schema_version"] != SCHEMA_VERSION:
                raise RsrError("is of another version of rsr", str(path))
            space = None if facts["space"] is None else Space.of_property(facts["kind"], facts["space"])
            if type(facts["shards"]) is not int or not 1 <= facts["shards"] <= MOST_SHARDS:
                raise ValueError("there is no such number of shards")
            return cls(facts["command"], facts["shards"], space)
        except (KeyError, TypeError, ValueError, AttributeError, RecordError):
            raise RsrError("is damaged", str(path), remedy="remove-parts") from None

    def write(self, directory: Path) -> None:
        """Write it; raise OutputError if another process has."""
        space = {"kind": self.space.kind, "space": self.space.as_property()} if self.space else {"space": None}
        _write(directory / COMMON, {"schema_version": SCHEMA_VERSION, **asdict(replace(self, space=None)), **space})


def _read(path: Path) -> Any:
    try:
        return orjson.loads(read_bytes(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RsrError(f"cannot be read: {reason(error)}", str(path)) from None
    except orjson.JSONDecodeError:
        raise RsrError("is damaged", str(path), remedy="remove-parts") from None


def _write(path: Path, facts: dict[str, Any], *, overwrite: bool = False) -> None:
    with whole_file(path, overwrite=overwrite) as file:
        file.write(orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def is_parts(path: str) -> bool:
    """Return whether a directory holds parts, or states that there are none."""
    return (Path(path) / COMMON).exists() or any(Path(path).glob("shard-*.json"))


# Reading -------------------------------------------------------------------------------------------------------------


def files(path: str, *, allow_missing: bool = False) -> list[str]:
    """Return the files of all parts of a directory, by shard and in their order.

    Parameters
    ----------
    path : str
        The directory.
    allow_missing : bool
        Warn of parts and shards that are missing, damaged or not complete, and leave them out.

    Raises
    ------
    RsrError
        Some are, or a file that states the parts is damaged.
    """
    directory = Path(path)
    common = Common.read(directory)
    if common is None:
        states = [State.read(each) for each in directory.glob("shard-*.json")]
        if any(state.parts for state in states if state):
            raise _without_common(directory)
        return []
    found: list[str] = []
    faults: list[str] = []
    for number in range(common.shards):
        state = State.read(directory / f"shard-{number}.json")
        if state is None or not state.complete:
            of = f" of {common.shards}" if common.shards > 1 else ""
            faults.append(f"shard {number}{of} is {'missing' if state is None else 'not complete'}")
        for part in state.parts if state else ():
            fault = part.fault(directory)
            if fault:
                faults.append(f"{part.name} {fault}")
            else:
                found.append(str(directory / part.name))
    if faults:
        more = f", and {len(faults) - 3} more are missing or damaged" if len(faults) > 3 else ""
        error = RsrError(f"{', '.join(faults[:3])}{more}", path, remedy="allow-missing")
        if not allow_missing:
            raise error
        log.warning("%s; left out", error)
    return found


def _without_common(directory: Path) -> RsrError:
    return RsrError(f"has parts, and no {COMMON} that states their space", str(directory), remedy="remove-parts")


# Writing -------------------------------------------------------------------------------------------------------------


class Writer:
    """Writes the records that a command makes to parts, in the place of a `streams.Writer`.

    Parameters
    ----------
    path : str
        The directory; it is created if there is none.
    command : str
        Which makes the records, such as ``rsr embed``.
    skips : Skips
        Asked about records that cannot be used.
    shard : Shard
        The share of the records that this run makes.
    size : int
        Records of the input per part.
    ending : str
        One of `ENDINGS`.

    Raises
    ------
    OutputError
        The directory is there and holds no parts, or cannot be written, or another process writes this shard.
    UsageError
        It holds parts of another command or of another number of shards.
    """

    def __init__(
        self,
        path: str,
        command: str,
        skips: Skips,
        *,
        shard: Shard = WHOLE,
        size: int = DEFAULT_SIZE,
        ending: str = ENDINGS[0],
    ) -> None:
        self._directory = Path(path)
        self._command = command
        self._skips = skips
        self._shard = shard
        self._size = size
        self._ending = ending
        self._left_out = 0
        with explained(path):
            self._directory.mkdir(exist_ok=True)
            if not all(_OURS.fullmatch(entry.name) for entry in self._directory.iterdir() if entry.name[0] != "."):
                raise OutputError("has other files than parts in it", path, remedy="other-parts")
        self._common = Common.read(self._directory)
        if self._common:  # before an input is read
            self._check(self._common)

    @property
    def known_space(self) -> Space | None:
        """The space of the vectors in the parts that are there."""
        return self._common.space if self._common else None

    def _check(self, common: Common) -> None:
        if common.command != self._command:
            what = f"holds parts that {common.command} made, and this is {self._command}"
            raise UsageError(what, str(self._directory), remedy="other-parts")
        if common.shards != self._shard.of:
            what = f"holds parts of {counted(common.shards, 'shard')}, and this is one of {self._shard.of}"
            raise UsageError(what, str(self._directory), remedy="other-parts")

    def __enter__(self) -> Writer:
        with explained(str(self._directory)):
            self._lock = Lock(self._directory / f"shard-{self._shard.number}.lock")
        if not self._lock.held:
            what = "this shard" if self._shard.of > 1 else "these parts"
            raise OutputError(f"another process makes {what}", str(self._directory), remedy="again")
        try:
            self._place = self._directory / f"shard-{self._shard.number}.json"
            self._state = State.read(self._place) or State()
            self._common = Common.read(self._directory)  # which another process may have written until now
            if self._state.parts and self._common is None:
                raise _without_common(self._directory)
            self._known = self._sound()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error == (None, None, None):
                self._save(complete=True)
                if self._left_out:
                    log.warning("%s: %s in it already", self._directory, counted(self._left_out, "record"))
        finally:
            self._lock.release()

    def _sound(self) -> NDArray[np.bytes_]:
        """Drop parts that are not as they were written, and return the digests of the ids of the others, sorted."""
        sound: list[Part] = []
        digests: list[bytes] = []
        for part in self._state.parts:
            fault = part.fault(self._directory)
            if fault:
                log.warning("%s: %s, and is made again", self._directory / part.name, fault)
                continue
            sound.append(part)
            for batch in streams.read([str(self._directory / part.name)], self._skips):
                digests += map(_digest, ids_of(batch, self._skips))
        if len(sound) < len(self._state.parts):
            self._save(parts=tuple(sound))
        named = {part.name for part in sound}
        for path in self._directory.glob(f"part-{self._shard.number}-*"):
            if path.name not in named:  # damaged, or left by a run that was killed before it counted
                remove(path)
        return np.sort(np.array(digests, f"S{_DIGEST_BYTES}"))

    def _save(self, **changed: Any) -> None:
        """Change the shard's file."""
        self._state = replace(self._state, **{"complete": False, **changed})
        with explained(str(self._place)):
            _write(self._place, asdict(self._state), overwrite=True)

    def fill(self, batches: Iterable[Batch], make: Make) -> Iterator[int]:
        """Make what is missing of records, part by part, and yield the number of records of each batch.

        Raises
        ------
        FingerprintError
            Their vectors are in another space than those that are there, or were computed in another precision.
        """
        missing = self._missing(batches)
        waiting: list[Batch] = []

        def of_one_part() -> Iterator[Batch]:
            room = self._size
            while room and (batch := waiting.pop() if waiting else next(missing, None)):
                if len(batch) > room:
                    waiting.append(batch.split(room))
                room -= len(batch)
                yield batch

        for batch in missing:
            waiting.append(batch)
            while waiting:
                yield from self._write(make(of_one_part()))

    def _missing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the records that no part has."""
        for batch in batches:
            ids = ids_of(batch, self._skips)
            digests = np.array([_digest(name) for name in ids], self._known.dtype)
            known = among(self._known, digests)
            self._left_out += int(np.count_nonzero(known))
            batch.keep((~known).nonzero()[0].tolist())
            if len(batch):
                yield batch

    def _write(self, made: Iterable[Batch]) -> Iterator[int]:
        """Write a part, which counts from then on, unless nothing was made."""
        taken = {part.number for part in self._state.parts}
        number = next(each for each in count_from(1) if each not in taken)  # that of a damaged part, with its records
        path = self._directory / f"part-{self._shard.number}-{number:06}.{self._ending}"
        count = 0
        with streams.Writer(str(path), self._skips, overwrite=True) as out:
            for batch in made:
                self._admit(batch.space)
                out.write(batch)
                count += len(batch)
                yield len(batch)
        if count:
            part = Part(path.name, count, path.stat().st_size, sha256_of(path))
            self._save(parts=tuple(sorted((*self._state.parts, part), key=lambda each: each.number)))
        else:
            remove(path)

    def _admit(self, space: Space | None) -> None:
        """Check that vectors are in the space of the parts that are there; of the first part, it is written down."""
        if self._common is None:
            try:
                Common(self._command, self._shard.of, space).write(self._directory)
            except OutputError:
                if not is_parts(str(self._directory)):
                    raise
            self._common = Common.read(self._directory)
            assert self._common is not None
            self._check(self._common)
        theirs = self._common.space
        if space is None or theirs is None:
            return
        if (space.fingerprint, space.size) != (theirs.fingerprint, theirs.size):
            what = f"the records are in another vector space than those in parts ({space.difference(theirs)})"
            raise FingerprintError(what, str(self._directory), remedy="same-parts")
        mine, other = (each.facts.get("precision", "fp32") for each in (space, theirs))
        if mine != other:
            what = f"the records are computed in {mine}, those in parts in {other}"
            raise FingerprintError(what, str(self._directory), remedy="same-parts")


def ids_of(batch: Batch, skips: Skips) -> Sequence[str]:
    """Return the ids of a batch's records, without those that have none, which are dropped."""
    facts = batch.columns.facts() if batch.columns else None
    return batch.apply(id_of, skips) if facts is None else facts.ids


def of_shard(batches: Iterable[Batch], shard: Shard, skips: Skips) -> Iterator[Batch]:
    """Yield the records of a shard."""
    for batch in batches:
        if shard.of > 1:
            takes = shard.takes(ids_of(batch, skips))
            batch.keep([i for i, taken in enumerate(takes) if taken])
        if len(batch):
            yield batch
