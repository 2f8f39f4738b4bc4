"""Records in parts: a directory that grows part by part, so that a command that is stopped loses one part at most.

parts.json               what is common to all parts: the command, its settings, the vector space, the number of shards
shard-0.json             the parts of a shard that are whole, with their sizes and checksums, and whether they are all
part-0-000001.parquet    records, in the format that the ending states

A part counts once its shard's file names it, which is written anew after each. A run makes only what is missing. A part
is made of consecutive records of the input, or scenes, so a run that goes on makes the parts that the first one would
have made.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from dataclasses import asdict, dataclass, replace
from itertools import count as count_from
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import orjson

from rsr_cli.core.errors import FingerprintError, OutputError, RecordError, RsrError, UsageError, counted, shown
from rsr_cli.core.files import Lock, explained, reason, remove, whole_file
from rsr_cli.core.inputs import read_bytes, sha256_of
from rsr_cli.core.records import streams
from rsr_cli.core.records.fields import id_of
from rsr_cli.core.records.ids import Seen
from rsr_cli.core.records.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch

    #: What a command makes of batches of records, or of scenes.
    Make = Callable[[Iterable[Any]], Iterable[Batch]]


class Named(Protocol):
    """A scene that has not been opened."""

    @property
    def name(self) -> str:
        """That its tiles' ids begin with."""


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
    """A part as its shard's file states it.

    Attributes
    ----------
    name : str
        That of its file.
    count, size : int
        Its records and bytes.
    sha256 : str
        Of its bytes.
    skipped : tuple of str
        Digests of the records of the input, or scenes, among those of the part, of which nothing could be made.
    """

    name: str
    count: int
    size: int
    sha256: str
    skipped: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """Its place among the parts of its shard, from 1."""
        return int(self.name.split("-")[2].partition(".")[0])

    def fault(self, directory: Path) -> str | None:
        """Return what is wrong with the file, ``None`` if it is as it was written."""
        path = directory / self.name
        try:
            sound = path.stat().st_size == self.size and sha256_of(path) == self.sha256
            return None if sound else "is damaged"
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
            parts = (Part(**each | {"skipped": tuple(each["skipped"])}) for each in facts["parts"])
            state = cls(tuple(parts), facts["complete"])
            number = path.stem.partition("-")[2]
            for part in state.parts:
                if not re.fullmatch(rf"part-{number}-\d{{6,12}}\.(parquet|geojsonl)", part.name):
                    raise ValueError("a part has another name")
                if not (type(part.count) is type(part.size) is int and isinstance(part.sha256, str)):
                    raise ValueError("a part has no numbers")
                if not all(isinstance(each, str) for each in part.skipped):
                    raise ValueError("a part names what was skipped by something else than digests")
            if len({part.name for part in state.parts}) < len(state.parts) or type(state.complete) is not bool:
                raise ValueError("a part is there twice, or it is not known whether they are all")
            return state
        except (KeyError, TypeError, ValueError):
            raise RsrError("is damaged", str(path), remedy="remove-parts") from None


@dataclass(frozen=True)
class Common:
    """What all parts of a directory have in common.

    Attributes
    ----------
    command : str
        That makes them, such as ``rsr embed``.
    settings : dict
        Its settings, besides those that the space states, as JSON has them.
    shards : int
        How many there are.
    space : Space or None
        Of the vectors, if records have some.
    """

    command: str
    settings: dict[str, Any]
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
            if not isinstance(facts["settings"], dict):
                raise TypeError("its settings have no names")
            return cls(facts["command"], facts["settings"], facts["shards"], space)
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
    """Writes the records that a command makes of others to parts, in the place of a `streams.Writer`.

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
        The directory is there and holds no parts, or cannot be written, or, as it is entered, another process writes
        this shard.
    UsageError
        As it is entered: it holds parts of another command or of another number of shards.
    """

    #: What it makes records of.
    noun = "record"

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
        self._settings: dict[str, Any] | None = None
        self._space: Space | None = None
        self._taken: list[bytes] = []
        self._left_out, self._put_off = 0, 0
        with explained(path):
            self._directory.mkdir(exist_ok=True)
            if not all(_OURS.fullmatch(entry.name) for entry in self._directory.iterdir() if entry.name[0] != "."):
                raise OutputError("has other files than parts in it", path, remedy="other-parts")
        self._common: Common | None = None

    @property
    def known_space(self) -> Space | None:
        """The space of the vectors in the parts that are there."""
        return self._common.space if self._common else None

    def __enter__(self) -> Writer:
        with explained(str(self._directory)):
            self._lock = Lock(self._directory / f"shard-{self._shard.number}.lock")
        if not self._lock.held:
            what = "this shard" if self._shard.of > 1 else "these parts"
            raise OutputError(f"another process makes {what}", str(self._directory), remedy="again")
        try:
            self._place = self._directory / f"shard-{self._shard.number}.json"
            self._state = State.read(self._place) or State()
            if not self._state.parts:
                self._forget()  # what a run that was killed before its first part left
            self._common = Common.read(self._directory)
            if self._common:  # before an input is read
                self._check(self._common)
            elif self._state.parts:
                raise _without_common(self._directory)
            self._seen = self._sound()
            # what an earlier run skipped is tried again once that run's work is done, or by one that skips nothing
            waits = self._skips.keep_going and not self._state.complete
            self._skipped = {each for part in self._state.parts for each in part.skipped} if waits else set()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error == (None, None, None):
                self._save(complete=True)
                if self._left_out:
                    log.warning("%s: %s in it already", self._directory, counted(self._left_out, self.noun))
                if self._put_off:
                    what = "%s: an earlier run skipped %s; run the command again to try them"
                    log.warning(what, self._directory, counted(self._put_off, self.noun))
            elif not self._state.parts:
                self._forget()
        finally:
            self._lock.release()

    def _forget(self) -> None:
        """Remove what states the settings if no part was made with them, and no other run may be making one."""
        with contextlib.suppress(OSError):
            if {entry.name for entry in self._directory.iterdir()} <= {COMMON, f"shard-{self._shard.number}.lock"}:
                remove(self._directory / COMMON)

    def _sound(self) -> Seen:
        """Drop parts that are not as they were written, and return what the others are made of."""
        sound: list[Part] = []
        seen = Seen()
        for part in self._state.parts:
            fault = part.fault(self._directory)
            if fault:
                log.warning("%s: %s, and is made again", self._directory / part.name, fault)
                continue
            sound.append(part)
            for digests in self._origins(part.name):
                seen.add(digests)
        if len(sound) < len(self._state.parts):
            self._save(parts=tuple(sound))
        named = {part.name for part in sound}
        for path in self._directory.glob(f"part-{self._shard.number}-*"):
            if path.name not in named:  # damaged, or left by a run that was killed before it counted
                remove(path)
        return seen

    def _origins(self, name: str) -> Iterator[list[bytes]]:
        """Yield the digests of what a part is made of, without those of which nothing could be."""
        for batch in streams.read([str(self._directory / name)], self._skips):
            yield [_digest(origin) for origin in self._names(ids_of(batch, self._skips))]

    def _names(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the names of what records are made of: records with their ids."""
        return ids

    def _save(self, **changed: Any) -> None:
        """Change the shard's file."""
        self._state = replace(self._state, **{"complete": False, **changed})
        with explained(str(self._place)):
            _write(self._place, asdict(self._state), overwrite=True)

    def fill(self, inputs: Iterable[Any], make: Make, settings: dict[str, Any]) -> Iterator[int]:
        """Make what is missing, part by part, and yield the number of records of each batch.

        Parameters
        ----------
        inputs : iterable of Batch
            What records are made of.
        make : callable
            Makes them.
        settings : dict
            With which it does, besides those that the space of the vectors states.

        Raises
        ------
        UsageError
            The parts that are there were made with other settings.
        FingerprintError
            Their vectors are in another space, or were computed in another precision.
        RecordError
            An id is there twice.
        """
        self._settings = orjson.loads(orjson.dumps(settings))
        if self._common:
            self._check(self._common)
        for some in self._portions(inputs):
            yield from self._write(make(some))

    def _portions(self, batches: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
        """Yield what is missing, as much at a time as makes a part."""
        missing = self._missing(batches)
        waiting: list[tuple[Batch, list[bytes]]] = []

        def of_one_part() -> Iterator[Batch]:
            room = self._size
            while room and (found := waiting.pop() if waiting else next(missing, None)):
                batch, digests = found
                if len(batch) > room:
                    waiting.append((batch.split(room), digests[room:]))
                self._taken += digests[:room]
                room -= len(batch)
                yield batch

        for found in missing:
            waiting.append(found)
            while waiting:
                yield of_one_part()

    def _missing(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[bytes]]]:
        """Yield the records that no part has, with the digests of their ids."""
        for batch in batches:
            digests = [_digest(name) for name in ids_of(batch, self._skips)]
            made, again = self._seen.meet(digests)
            for i in again.nonzero()[0].tolist():
                self._skips(RecordError("has the id of an earlier record", batch.place(i), remedy="unique-ids"))
            self._left_out += int(np.count_nonzero(made))
            chosen = [i for i in (~made & ~again).nonzero()[0].tolist() if self._tries(digests[i])]
            batch.keep(chosen)
            if chosen:
                yield batch, [digests[i] for i in chosen]

    def _tries(self, digest: bytes) -> bool:
        """Return whether to make records of something that no part has, or to put it off, which counts as skipped."""
        if digest.hex() not in self._skipped:
            return True
        self._put_off += 1
        self._skips.count += 1
        return False

    def _write(self, made: Iterable[Batch]) -> Iterator[int]:
        """Write a part, which counts from then on, unless nothing was made."""
        taken = {part.number for part in self._state.parts}
        number = next(each for each in count_from(1) if each not in taken)  # that of a damaged part, with its records
        path = self._directory / f"part-{self._shard.number}-{number:06}.{self._ending}"
        self._count = 0
        with streams.Writer(str(path), self._skips, overwrite=True) as out:
            for batch in made:
                self._admit(batch.space)
                out.write(batch)
                self._count += len(batch)
                yield len(batch)
        if not self._count:  # what was skipped is noted with the next part
            remove(path)
            return
        skipped: tuple[str, ...] = ()
        if self._count < len(self._taken) or self.noun != "record":
            origins = {digest for digests in self._origins(path.name) for digest in digests}
            skipped = tuple(digest.hex() for digest in self._taken if digest not in origins)
        self._taken = []
        self._agree()
        part = Part(path.name, self._count, path.stat().st_size, sha256_of(path), skipped)
        self._save(parts=tuple(sorted((*self._state.parts, part), key=lambda each: each.number)))

    def _admit(self, space: Space | None) -> None:
        """Check that vectors that were made are in the space of the parts that are there, or write it down."""
        if self._common is None or space is not self._space:
            self._space = space
            self._agree()

    def _agree(self) -> None:
        """Check what is written down as common to all parts, by whatever run; if nothing is, write it down."""
        self._common = Common.read(self._directory)
        if self._common is None:
            own = Common(self._command, self._settings or {}, self._shard.of, self._space)
            try:
                own.write(self._directory)
            except OutputError:
                if not (self._directory / COMMON).exists():
                    raise
            self._common = Common.read(self._directory) or own
        self._check(self._common)

    def _check(self, common: Common) -> None:
        """Raise UsageError or FingerprintError if this run, as far as it is known, does not go with what is common."""
        place = str(self._directory)
        if common.command != self._command:
            what = f"holds parts that {common.command} made, and this is {self._command}"
            raise UsageError(what, place, remedy="other-parts")
        if common.shards != self._shard.of:
            what = f"holds parts of {counted(common.shards, 'shard')}, and this is one of {self._shard.of}"
            raise UsageError(what, place, remedy="other-parts")
        for name, value in (self._settings or {}).items():
            if (theirs := common.settings.get(name)) != value:
                what = f"holds parts made with {name} {shown(theirs)}, and this run has {shown(value)}"
                raise UsageError(what, place, remedy="same-parts")
        space, theirs = self._space, common.space
        if space is None or theirs is None:
            return
        if (space.fingerprint, space.size) != (theirs.fingerprint, theirs.size):
            what = f"the records are in another vector space than those in parts ({space.difference(theirs)})"
            raise FingerprintError(what, place, remedy="same-parts")
        mine, other = (each.facts.get("precision", "fp32") for each in (space, theirs))
        if mine != other:
            what = f"the records are computed in {mine}, those in parts in {other}"
            raise FingerprintError(what, place, remedy="same-parts")


class SceneWriter(Writer):
    """Writes the tiles of scenes to parts, each of which has all tiles of its scenes.

    Parameters
    ----------
    scene_of : callable
        Returns the name of the scene that a tile of some id was cut from.
    *arguments, **settings
        As of `Writer`.
    """

    noun = "scene"

    def __init__(self, *arguments: Any, scene_of: Callable[[str], str], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._scene_of = scene_of

    def _names(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the names of the scenes of tiles."""
        return list(dict.fromkeys(map(self._scene_of, ids)))

    def _portions(self, scenes: Iterable[Named]) -> Iterator[Iterator[Named]]:  # type: ignore[override]
        """Yield scenes of which no part has tiles, as many at a time as make a part."""
        missing = self._missing_scenes(scenes)

        def of_one_part(scene: Named | None) -> Iterator[Named]:
            while scene:
                self._taken.append(_digest(scene.name))
                yield scene
                scene = next(missing, None) if self._count < self._size else None

        for scene in missing:
            yield of_one_part(scene)

    def _missing_scenes(self, scenes: Iterable[Named]) -> Iterator[Named]:
        for scene in scenes:
            digest = _digest(scene.name)
            made = self._seen.meet([digest])[0][0]
            self._left_out += int(made)
            if not made and self._tries(digest):
                yield scene


def ids_of(batch: Batch, skips: Skips) -> Sequence[str]:
    """Return the ids of a batch's records, without those that have none, which are dropped."""
    facts = batch.columns.facts() if batch.columns else None
    return batch.apply(id_of, skips) if facts is None else facts.ids


def of_shard(batches: Iterable[Batch], shard: Shard, skips: Skips) -> Iterator[Batch]:
    """Yield the records of a shard."""
    for batch in batches:
        takes = shard.takes(ids_of(batch, skips))
        batch.keep([i for i, taken in enumerate(takes) if taken])
        if len(batch):
            yield batch
