"""Writing records in parts: a run makes only what is missing.

A part is made of consecutive records of the input, or scenes, so a run that goes on makes the parts that the first one
would have made.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from heapq import nsmallest
from itertools import count as count_from
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import orjson

from rsr_cli.core.errors import FingerprintError, OutputError, RecordError, RsrError, UsageError, counted, shown
from rsr_cli.core.files import Lock, explained, is_locked, remove
from rsr_cli.core.inputs import sha256_of
from rsr_cli.core.records import streams
from rsr_cli.core.records.ids import Seen
from rsr_cli.core.records.parts import (
    COMMON,
    WHOLE,
    Common,
    Part,
    Shard,
    State,
    digest_of,
    few,
    has_others,
    ids_of,
    states_in,
    without_common,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Space

    #: What a command makes of batches of records, or of scenes.
    Make = Callable[[Iterable[Any]], Iterable[Batch]]


class Named(Protocol):
    """A scene that has not been opened."""

    @property
    def name(self) -> str:
        """That its tiles' ids begin with."""


log = logging.getLogger("rsr")

#: Records of a part.
DEFAULT_SIZE = 10_000
ENDINGS = ("parquet", "geojsonl")
#: Digests that are kept of each part. If the input lacks a tenth of a part's records, 16 know it in 4 of 5 cases.
_SAMPLE = 16


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
        Records of the input per part, or tiles, but for those of its last scene.
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
        self._settings_of: Callable[[Space], dict[str, Any]] | None = None
        self._space: Space | None = None
        self._taken: set[str] = set()
        self._failed: set[str] = set()
        self._made: set[str] = set()
        self._faulty: dict[str, str] = {}
        self._unnamed: Path | None = None
        self._left_out, self._put_off, self._mended = 0, 0, 0
        self._is_new = not self._directory.exists()
        with explained(path):
            self._directory.mkdir(exist_ok=True)
            if has_others(self._directory):
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
            self._state = State.read(self._place) or State(self._shard.of)
            self._check_shards()
            if not self._state.parts:
                self._forget()  # what a run that was killed before its first part left
            self._common = Common.read(self._directory)
            if self._common:  # before an input is read
                self._check(self._common)
            elif self._state.parts:
                raise without_common(self._directory)
            self._faulty = self._faults()
            self._had, self._sought = self._lost()
            sound = self._sound
            self._skipped = {each for part in sound for each in part.skipped}
            self._seen = self._meet(sound)
            self._numbers = {part.number for part in sound}
            self._next = 1
            # what an earlier run skipped is tried again once that run's work is done, or by one that skips nothing
            waits = self._skips.keep_going and not (self._state.complete or self._had or self._sought)
            self._waiting = self._skipped.copy() if waits else set()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error == (None, None, None):
                self._miss()
                self._let_go()
                self._save(complete=True, had=0, sought=(), parts=self._without(self._taken - self._failed))
                if self._left_out:
                    log.warning("%s: %s in it already", self._directory, counted(self._left_out, self.noun))
                if self._put_off:
                    what = "%s: an earlier run skipped %s; run the command again to try them"
                    log.warning(what, self._directory, counted(self._put_off, self.noun))
                return
            state = State.read(self._place) or self._state
            if self._unnamed and self._unnamed.name not in {part.name for part in state.parts}:
                remove(self._unnamed)  # not if it was named just before
            if not self._state.parts:
                self._forget()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Let others have the shard, and leave no directory without a file."""
        self._lock.release()
        if self._is_new:
            with contextlib.suppress(OSError):
                self._directory.rmdir()

    def _forget(self) -> None:
        """Remove what states the settings if no part was made with them, and no other run may be making one."""
        own = {COMMON, self._place.name, f"shard-{self._shard.number}.lock"}
        with contextlib.suppress(OSError, RsrError):
            others = [path for path in self._directory.iterdir() if path.name[0] != "." and path.name not in own]
            if not any(map(self._binds, others)):
                remove(self._directory / COMMON)

    @staticmethod
    def _binds(path: Path) -> bool:
        """Return whether a file is a part, or of a run that makes one, or of a shard that has some."""
        if path.suffix == ".lock":
            return is_locked(path)
        return path.suffix != ".json" or bool((state := State.read(path)) and state.parts)

    def _faults(self) -> dict[str, str]:
        """Return the names of parts that are not as they were written, and what is wrong with each."""
        known = {part.name for part in self._state.parts}
        strays = [path for path in self._directory.glob(f"part-{self._shard.number}-*") if path.name not in known]
        if len(strays) > 1:  # a run that was killed leaves one
            what = f"has {counted(len(strays), 'part')} that {self._place.name} does not name"
            raise OutputError(what, str(self._directory), remedy="unnamed-parts")
        for path in strays:
            log.warning("%s: does not count yet, and is made again", path)
            remove(path)
        return {part.name: fault for part in self._state.parts if (fault := part.fault(self._directory))}

    @property
    def _sound(self) -> tuple[Part, ...]:
        """The parts that are as they were written."""
        return tuple(part for part in self._state.parts if part.name not in self._faulty)

    def _meet(self, parts: Iterable[Part]) -> Seen:
        """Return what parts are made of."""
        seen = Seen()
        for part in parts:
            for batch in streams.read([str(self._directory / part.name)], self._skips):
                seen.add([digest_of(origin) for origin in self._names(ids_of(batch, self._skips))])
        return seen

    def _lost(self) -> tuple[int, tuple[str, ...]]:
        """Return the origins of all parts before some were lost, and digests of some of those of the lost ones."""
        if not self._faulty:
            return self._state.had, self._state.sought
        had = max(self._state.had, sum(part.origins for part in self._state.parts))
        lost = (each for part in self._state.parts if part.name in self._faulty for each in part.sample)
        return had, tuple(sorted({*self._state.sought, *lost}))

    def _let_go(self, made: str = "") -> None:
        """Remove the files of parts that are not as they were written, but of one that was made in the place of one."""
        for name in self._faulty:
            if name != made:
                remove(self._directory / name)
        self._state = replace(self._state, parts=self._sound)
        self._faulty = {}

    def _miss(self) -> None:
        """Skip what lost parts had and was not made again, of which numbers and samples tell."""
        place = str(self._directory)
        has = sum(part.origins for part in self._sound) + self._mended
        if has < self._had:
            what = f"has {has} of the {counted(self._had, self.noun)} that it had before parts were lost"
            self._skips(RecordError(what, place, remedy="all-inputs"))
        elif self._sought:
            made, met = self._seen.meet(list(map(bytes.fromhex, self._sought)))
            # of a scene that was skipped, another part has the other tiles
            if not all(met | (made & [each not in self._skipped for each in self._sought])):
                what = f"lost parts, and the input lacks {self.noun}s that they were made of"
                self._skips(RecordError(what, place, remedy="all-inputs"))

    def _names(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the names of what records are made of: records with their ids."""
        return ids

    def _save(self, **changed: Any) -> None:
        """Change the shard's file."""
        self._state = replace(self._state, **{"complete": False, **changed})
        with explained(str(self._place)):
            self._state.write(self._place)

    def fill(
        self,
        inputs: Iterable[Any],
        make: Make,
        settings: dict[str, Any],
        settings_of: Callable[[Space], dict[str, Any]] | None = None,
    ) -> Iterator[int]:
        """Make what is missing, part by part, and yield the number of records of each batch.

        Parameters
        ----------
        inputs : iterable of Batch, or of `Named` scenes
            What records are made of.
        make : callable
            Makes them.
        settings : dict
            With which it does, besides those that the space of the vectors states.
        settings_of : callable, optional
            Returns those that depend on the space of the vectors that records are made of.

        Raises
        ------
        UsageError
            The parts that are there were made with other settings, or in another precision.
        FingerprintError
            Their vectors are in another space.
        RecordError
            An id is there twice.
        """
        settings = settings | {"part_format": self._ending}
        self._settings_of = settings_of
        self._settings = {name: self._as_json(name, value) for name, value in settings.items()}
        if self._common:
            self._check(self._common)
        if self._faulty:
            faults = [f"{name} {fault}" for name, fault in self._faulty.items()]
            log.warning("%s: %s; made again as far as the input has it", self._directory, few(faults))
        for some in self._portions(inputs):
            yield from self._write(make(some))

    def _as_json(self, name: str, value: Any) -> Any:
        try:
            return orjson.loads(orjson.dumps(value))
        except TypeError:
            what = f"is to hold parts made with {name} {shown(value)}, which is not UTF-8"
            raise UsageError(what, str(self._directory)) from None

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
                self._taken.update(map(bytes.hex, digests[:room]))
                room -= len(batch)
                yield batch

        for found in missing:
            waiting.append(found)
            while waiting:
                yield of_one_part()

    def _missing(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[bytes]]]:
        """Yield the records that no part has, with the digests of their ids."""
        for batch in batches:
            self._know(batch.space)
            self._begin()
            digests = [digest_of(name) for name in ids_of(batch, self._skips)]
            made, again = self._seen.meet(digests)
            for i in again.nonzero()[0].tolist():
                self._skips(RecordError("has the id of an earlier record", batch.place(i), remedy="unique-ids"))
            self._left_out += int(np.count_nonzero(made))
            chosen = [i for i in (~made & ~again).nonzero()[0].tolist() if not self._puts_off(digests[i].hex())]
            batch.keep(chosen)
            if chosen:
                yield batch, [digests[i] for i in chosen]

    def _begin(self) -> None:
        """Note that the parts are not complete until this run too has read all."""
        if self._state.complete:
            self._save()

    def _know(self, origin: Space | None) -> None:
        """Note the space of the vectors that records are made of, which is a setting as others are."""
        assert self._settings is not None
        if origin and "vectors" not in self._settings:
            self._settings["vectors"] = origin.fingerprint
            if self._settings_of:
                self._settings |= self._settings_of(origin)
            if self._common:
                self._check(self._common)

    def _puts_off(self, digest: str) -> bool:
        """Return whether to leave what an earlier run skipped to a later one, which counts as skipped."""
        if digest not in self._waiting:
            return False
        self._put_off += 1
        self._skips.count += 1
        return True

    def _write(self, made: Iterable[Batch]) -> Iterator[int]:
        """Write a part, which counts from then on, unless nothing was made."""
        number = next(each for each in count_from(self._next) if each not in self._numbers)  # a damaged part's first
        path = self._directory / f"part-{self._shard.number}-{number:06}.{self._ending}"
        self._count, self._unnamed = 0, path
        if path.name in self._faulty:
            remove(path)
        with streams.Writer(str(path), self._skips, overwrite=True) as out:
            for batch in made:
                self._leave_out(batch)
                if len(batch):
                    self._admit(batch.space)
                    self._made.update(digest_of(name).hex() for name in self._names(ids_of(batch, self._skips)))
                    out.write(batch)
                    self._count += len(batch)
                yield len(batch)
        if not self._count:  # what was skipped is noted with the next part
            remove(path)
            return
        sample, skipped = tuple(nsmallest(_SAMPLE, self._made)), tuple(sorted(self._unmade()))
        origins = len(self._made - self._failed)
        self._agree()
        part = Part(path.name, self._count, path.stat().st_size, origins, sha256_of(path), sample, skipped)
        self._let_go(part.name)
        parts = sorted((*self._without(self._taken - self._failed), part), key=lambda each: each.number)
        self._save(parts=tuple(parts), had=self._had, sought=self._sought)
        self._numbers.add(number)
        self._next = number + 1
        self._taken, self._failed, self._made, self._unnamed = set(), set(), set(), None

    def _without(self, tried: set[str]) -> tuple[Part, ...]:
        """Return the parts, which no longer name as skipped what was tried again."""
        if tried.isdisjoint(self._skipped):
            return self._state.parts
        return tuple(
            replace(part, skipped=tuple(each for each in part.skipped if each not in tried))
            for part in self._state.parts
        )

    def _leave_out(self, batch: Batch) -> None:
        """Drop records that another part has."""

    def _unmade(self) -> set[str]:
        """Return the digests of what was taken for a part, and of which it has not all that it should have."""
        return self._taken - self._made

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

    def _check_shards(self) -> None:
        """Raise UsageError if a shard that is there is one of another number."""
        states, _ = states_in(self._directory)  # of one that cannot be read, its own run tells
        for state in states.values():
            self._check_number(state.of)

    def _check_number(self, shards: int) -> None:
        if shards != self._shard.of:
            what = f"holds parts of {counted(shards, 'shard')}, and this is one of {self._shard.of}"
            raise UsageError(what, str(self._directory), remedy="other-parts")

    def _check(self, common: Common) -> None:
        """Raise UsageError or FingerprintError if this run, as far as it is known, does not go with what is common."""
        place = str(self._directory)
        if common.command != self._command:
            what = f"holds parts that {common.command} made, and this is {self._command}"
            raise UsageError(what, place, remedy="other-parts")
        self._check_number(common.shards)
        for name, value in (self._settings or {}).items():
            if (theirs := common.settings.get(name)) != value:
                what = f"holds parts made {_stated(name, theirs)}, and this run is {_stated(name, value)}"
                raise UsageError(what, place, remedy="same-parts")
        space, theirs = self._space, common.space
        if space is None or theirs is None:
            return
        if (space.fingerprint, space.size) != (theirs.fingerprint, theirs.size):
            what = f"the records are in another vector space than those in parts ({space.difference(theirs)})"
            raise FingerprintError(what, place, remedy="same-parts")


class SceneWriter(Writer):
    """Writes the tiles of scenes to parts, each of which has all of its scenes' tiles that could be made then.

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
        #: Tiles that are there of scenes of which others were skipped.
        self._tiles: set[bytes] = set()
        #: Scenes that are cut again for tiles that are not there, and go on to be, as those that are may be lost.
        self._shared: set[str] = set()

    def _names(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the names of the scenes of tiles."""
        scenes: dict[str, list[str]] = {}
        for name in ids:
            scenes.setdefault(self._scene_of(name), []).append(name)
        for scene, tiles in scenes.items():
            if digest_of(scene).hex() in self._skipped:
                self._tiles.update(map(digest_of, tiles))
        return list(scenes)

    def _leave_out(self, batch: Batch) -> None:
        """Drop tiles that are there, of a scene that is cut again for others."""
        if self._tiles:
            batch.keep([i for i, name in enumerate(ids_of(batch, self._skips)) if digest_of(name) not in self._tiles])

    def _unmade(self) -> set[str]:
        """Return the digests of scenes of which a tile was skipped, or all were, or is in another part."""
        return self._failed

    def _portions(self, scenes: Iterable[Named]) -> Iterator[Iterator[Named]]:  # type: ignore[override]
        """Yield scenes of which tiles are missing, as many at a time as make a part."""
        missing = self._missing_scenes(scenes)

        def of_one_part(scene: Named | None) -> Iterator[Named]:
            while scene:
                digest, before = digest_of(scene.name).hex(), self._skips.count
                self._taken.add(digest)
                yield scene
                if self._skips.count > before or digest in self._shared:
                    self._failed.add(digest)
                self._mended += self._skips.count == before and digest in self._shared
                scene = next(missing, None) if self._count < self._size else None

        for scene in missing:
            yield of_one_part(scene)

    def _missing_scenes(self, scenes: Iterable[Named]) -> Iterator[Named]:
        for scene in scenes:
            self._begin()
            digest = digest_of(scene.name)
            made = self._seen.meet([digest])[0][0]
            if self._puts_off(digest.hex()):
                continue
            if made and digest.hex() not in self._skipped:
                self._left_out += 1
                continue
            if made:
                self._shared.add(digest.hex())
            yield scene


def _stated(name: str, value: Any) -> str:
    """Return a setting for a message."""
    return f"without {name}" if value is None or value is False else f"with {name} {shown(value)}"
