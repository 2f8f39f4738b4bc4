"""Records in parts: a directory that grows part by part, so that a command that is stopped loses one part at most.

parts.json               what is common to all parts: the command, its settings, the number of shards, the vector space
shard-0.json             of how many shards it is one; its parts that are whole, with sizes and checksums; what was
                         skipped, or lost; whether they are all
part-0-000001.parquet    records, in the format that the ending states

A part counts once its shard's file names it, which is written anew after each, by `part_writer`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from rsr_cli.core.errors import RecordError, RsrError
from rsr_cli.core.files import is_locked, reason, whole_file
from rsr_cli.core.inputs import read_bytes, sha256_of
from rsr_cli.core.records.fields import id_of
from rsr_cli.core.records.space import Space

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.records.batch import Batch

log = logging.getLogger("rsr")

COMMON = "parts.json"
SCHEMA_VERSION = 1
MOST_SHARDS = 1_000_000
_DIGEST_BYTES = 16
_STATE = re.compile(r"shard-[0-9]+\.json")
_OURS = re.compile(rf"parts\.json|{_STATE.pattern}|shard-[0-9]+\.lock|part-[0-9]+-[0-9]+\.(parquet|geojsonl)")


class Shard(NamedTuple):
    """A share of the work: which one, from 0, of how many."""

    number: int = 0
    of: int = 1

    def takes(self, ids: Sequence[str]) -> list[bool]:
        """Return which ids are of this shard; an id is of the same one on every machine."""
        if self.of == 1:
            return [True] * len(ids)
        return [int.from_bytes(each[:8], "little") % self.of == self.number for each in map(digest_of, ids)]


WHOLE = Shard()


def digest_of(name: str) -> bytes:
    """Return what an id is known by: 16 bytes."""
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
    origins : int
        Records of the input that it has, or scenes that it has all of.
    sha256 : str
        Of its bytes.
    sample : tuple of str
        Digests of some of the records of the input, or scenes, that it is made of; of all if they are few.
    skipped : tuple of str
        Digests of those among them of which nothing could be made.
    """

    name: str
    count: int
    size: int
    origins: int
    sha256: str
    sample: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def number(self) -> int:
        """Its place among the parts of its shard, from 1."""
        return int(self.name.split("-")[2].partition(".")[0])

    def fault(self, directory: Path) -> str | None:
        """Return what is wrong with the file, ``None`` if nothing is; raise RsrError if it cannot be read."""
        path = directory / self.name
        try:
            return None if sha256_of(path) == self.sha256 else "is damaged"
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            raise RsrError(f"cannot be read: {reason(error)}", str(path)) from None


@dataclass(frozen=True)
class State:
    """A shard.

    Attributes
    ----------
    of : int
        How many there are.
    parts : tuple of Part
        Those that are whole.
    complete : bool
        Whether a run has come to its end with them.
    had : int
        The origins of all parts before some were lost, of which not all are made again; else 0.
    sought : tuple of str
        Digests of some of what the lost parts were made of.
    """

    of: int
    parts: tuple[Part, ...] = ()
    complete: bool = False
    had: int = 0
    sought: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write it in the place of what was there."""
        _write(path, self, overwrite=True)

    @classmethod
    def read(cls, path: Path) -> State | None:
        """Read a shard's file, ``None`` if there is none; raise RsrError if it is damaged."""
        try:
            facts = _read(path)
            if facts is None:
                return None
            if not isinstance(facts["parts"], list):
                raise TypeError("its parts are no list")
            parts = tuple(_part(each, path.stem.partition("-")[2]) for each in facts["parts"])
            state = cls(_shards(facts["of"]), parts, facts["complete"], facts["had"], _digests(facts["sought"]))
            if len({part.name for part in state.parts}) < len(state.parts) or type(state.complete) is not bool:
                raise ValueError("a part is there twice, or it is not known whether they are all")
            if type(state.had) is not int:
                raise ValueError("it is not known how many records there were")
            return state
        except (KeyError, TypeError, ValueError):
            raise RsrError("is damaged", str(path), remedy="remove-shard") from None


def _part(facts: dict[str, Any], shard: str) -> Part:
    part = Part(**facts | {name: _digests(facts[name]) for name in ("sample", "skipped")})
    if not re.fullmatch(rf"part-{shard}-[0-9]{{6,12}}\.(parquet|geojsonl)", part.name):
        raise ValueError("a part has another name")
    if not (type(part.count) is type(part.size) is type(part.origins) is int and isinstance(part.sha256, str)):
        raise ValueError("a part has no numbers")
    return part


def _digests(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or any(len(bytes.fromhex(each)) != _DIGEST_BYTES for each in found):
        raise ValueError("these are no digests")
    return tuple(found)


def _shards(found: Any) -> int:
    if type(found) is not int or not 1 <= found <= MOST_SHARDS:
        raise ValueError("there is no such number of shards")
    return found


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
            if not isinstance(facts["settings"], dict):
                raise TypeError("its settings have no names")
            return cls(facts["command"], facts["settings"], _shards(facts["shards"]), space)
        except (KeyError, TypeError, ValueError, AttributeError, RecordError):
            raise RsrError("is damaged", str(path), remedy="remove-parts") from None

    def write(self, directory: Path) -> None:
        """Write it; raise OutputError if another process has."""
        space = {"kind": self.space.kind, "space": self.space.as_property()} if self.space else {"space": None}
        _write(directory / COMMON, {"schema_version": SCHEMA_VERSION, **asdict(replace(self, space=None)), **space})


def _read(path: Path) -> Any:
    """Read what a file states; ``None`` if there is none."""
    try:
        facts = orjson.loads(read_bytes(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RsrError(f"cannot be read: {reason(error)}", str(path)) from None
    if facts is None:
        raise ValueError("it states nothing")
    return facts


def _write(path: Path, facts: Any, *, overwrite: bool = False) -> None:
    with whole_file(path, overwrite=overwrite) as file:
        file.write(orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def is_parts(path: str) -> bool:
    """Return whether a directory holds parts, or states that there are none; others too name files after shards."""
    return (Path(path) / COMMON).exists() or (any(_places(Path(path))) and not has_others(Path(path)))


def _places(directory: Path) -> Iterator[Path]:
    """Yield the files of shards."""
    return (path for path in directory.glob("shard-*.json") if _STATE.fullmatch(path.name))


def states_in(directory: Path) -> tuple[dict[str, State], dict[str, RsrError]]:
    """Return the shards of a directory by the names of their files, and the errors of those that cannot be read."""
    states: dict[str, State] = {}
    errors: dict[str, RsrError] = {}
    for path in _places(directory):
        try:
            if state := State.read(path):
                states[path.name] = state
        except RsrError as error:
            errors[path.name] = error
    return states, errors


def has_others(directory: Path) -> bool:
    """Return whether a directory has other files than parts and what belongs to them."""
    return not all(_OURS.fullmatch(entry.name) for entry in directory.iterdir() if entry.name[0] != ".")


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
    states, damaged = states_in(directory)
    if damaged and not allow_missing:
        raise next(iter(damaged.values()))
    common = Common.read(directory)
    if common is None and any(state.parts for state in states.values()):
        raise without_common(directory)
    shards = common.shards if common else max((state.of for state in states.values()), default=1)
    faults = [f"{name} {error.message}" for name, error in damaged.items()]
    faults += (f"{name} is of another number of shards" for name, state in states.items() if state.of != shards)
    found: list[str] = []
    for number in range(shards):
        name = f"shard-{number}.json"
        state = states.get(name)
        if name not in damaged and not (state and state.complete):
            of = f" of {shards}" if shards > 1 else ""
            now = is_locked(directory / f"shard-{number}.lock")
            faults.append(f"shard {number}{of} is {'being made' if now else 'not complete' if state else 'missing'}")
        for part in state.parts if state else ():
            try:
                fault = part.fault(directory)
            except RsrError as unreadable:
                fault = unreadable.message
            if fault:
                faults.append(f"{part.name} {fault}")
            else:
                found.append(str(directory / part.name))
    if faults:
        faulty = RsrError(few(faults), path, remedy="allow-missing")
        if not allow_missing:
            raise faulty
        log.warning("%s; the rest is read", faulty)
    return found


def sizes(path: str) -> dict[str, int]:
    """Return the bytes of all parts, their number and that of shards, as far as the shards' files state it."""
    states, _ = states_in(Path(path))
    parts = [part for state in states.values() for part in state.parts]
    shards = max((state.of for state in states.values()), default=1)
    return {"bytes": sum(part.size for part in parts), "parts": len(parts), "shards": shards}


def few(faults: Sequence[str]) -> str:
    """Return what is wrong in words, if it is too much the first of it."""
    more = f", and {len(faults) - 3} more are missing or damaged" if len(faults) > 3 else ""
    return f"{', '.join(faults[:3])}{more}"


def without_common(directory: Path) -> RsrError:
    """Return the error of parts of which nothing states what they have in common."""
    return RsrError(f"has parts, and no {COMMON} that states their space", str(directory), remedy="remove-parts")


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
