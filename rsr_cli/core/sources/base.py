"""What a source of scenes is: it finds the files of each scene, and opens none."""

from __future__ import annotations

import csv
import io
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from rsr_cli.core.errors import RasterError, UsageError
from rsr_cli.core.inputs import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rsr_cli.core.errors import BandError, Skips

#: A multi-band file, or STAC common name -> file with that band, see `band_in_file`.
Files = str | dict[str, str]

SPLITS = ("train", "val", "test")


class Declared(NamedTuple):
    """What a source states of a band's numbers, as a file may.

    Attributes
    ----------
    pair : tuple of float or None
        Scale and offset to reflectance x 10000, or to the band's unit.
    nodata : float or None
        The number of invalid pixels.
    """

    pair: tuple[float, float] | None = None
    nodata: float | None = None


@dataclass(frozen=True)
class Found:
    """A scene's files.

    Attributes
    ----------
    name : str
        The beginning of its tiles' ids.
    source : str or dict of str to str
        Path of a multi-band file, or STAC common name -> path of the file with that band.
    parent : str
        Name of the directory above.
    properties : dict
        Properties of its records that the source states and the files do not.
    geometry : dict or None
        GeoJSON geometry of scenes whose files do not state where they are.
    scale : float or None
        Reflectance x 10000 = DN * scale, if the source defines it.
    declared : dict of str to Declared
        STAC common name -> what the source states of the band; it counts where the band's file states nothing.
    others : dict of str to str
        Name in lower case -> path of a file that belongs to the scene, such as a classification of its pixels.
    stated_in : str
        The document that states the scene, if one does.
    doubt : BandError or None
        Why numbers of which nothing states the scale and offset may not be what they seem.
    """

    name: str
    source: Files
    parent: str
    properties: dict[str, Any] = field(default_factory=dict)
    geometry: dict[str, Any] | None = None
    scale: float | None = None
    declared: dict[str, Declared] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    stated_in: str = ""
    doubt: BandError | None = None

    @property
    def paths(self) -> list[str]:
        """The files."""
        return list(self.source.values()) if isinstance(self.source, dict) else [self.source]

    @property
    def path(self) -> str:
        """The file, or the first of the files."""
        return self.paths[0]

    @property
    def place(self) -> str:
        """The path to name in a message: the document, the file, or the directory of the single-band files."""
        if self.stated_in:
            return self.stated_in
        return self.source if isinstance(self.source, str) else str(Path(file_and_band(self.path)[0]).parent)


def band_in_file(path: object, index: int) -> str:
    """Return the source that stands for one band of a multi-band file, as GDAL writes it; bands count from 1."""
    return f"vrt://{path}?bands={index}"


def file_and_band(source: str) -> tuple[str, int | None]:
    """Split the source of one band into its file and, if `band_in_file` wrote it, the band's number there."""
    found = re.fullmatch(r"vrt://(.+)\?bands=(\d+)", source)
    return (found[1], int(found[2])) if found else (source, None)


class Source(Protocol):
    """Where scenes come from."""

    def find(self, path: str, skips: Skips) -> Iterator[Found]:
        """Find the scenes at a path.

        Parameters
        ----------
        path : str
            A file or directory that the user named.
        skips : Skips
            Asked about scenes that cannot be used.

        Yields
        ------
        Found
            In an order that is the same every time.

        Raises
        ------
        RasterError
            Nothing is there, or no scene is.
        """


@dataclass(frozen=True)
class Dataset(ABC):
    """A published dataset of labelled patches, each taken whole.

    Attributes
    ----------
    name : str
        Name on the command line.
    title : str
        One line for people.
    class_counts : tuple of int
        The numbers of classes that its labels come in, the default first; empty if there is no choice.
    scale : float or None
        Reflectance x 10000 = DN * scale. The dataset then defines sensor, offset and time too; else the user does.
    draws_splits : bool
        It has no published splits, and they are drawn.
    split : str or None
        ``train``, ``val`` or ``test``; None is all patches.
    classes : int or None
        One of ``class_counts``; None is the first.
    bands : sequence of str or None
        STAC common names of the bands to take; None is all bands.
    seed : int
        Seed for drawn splits.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    class_counts: ClassVar[tuple[int, ...]] = ()
    scale: ClassVar[float | None] = None
    draws_splits: ClassVar[bool] = False

    split: str | None = None
    classes: int | None = None
    bands: Sequence[str] | None = None
    seed: int = 0

    def find(self, path: str, skips: Skips) -> Iterator[Found]:
        """Find the dataset's patches; see `Source.find`.

        Properties of the patches are ``labels`` and ``split``, and what the dataset states about time: ``datetime``,
        or None for it and ``start_datetime`` and ``end_datetime``.
        """
        if not Path(path).is_dir():
            raise RasterError(f"is not a directory, as the dataset {self.name} is", path)
        yield from self.patches(Path(path), skips)

    @abstractmethod
    def patches(self, root: Path, skips: Skips) -> Iterator[Found]:
        """Find the patches of the split, in the order of its list, or sorted if there is no list."""

    def choose_bands(self, known: Iterable[str]) -> list[str]:
        """Return the bands to take: those asked for, else all.

        Raises
        ------
        UsageError
            The dataset does not have a band that is asked for.
        """
        known = list(known)
        unknown = [band for band in self.bands or () if band not in known]
        if unknown:
            raise UsageError(f"{self.name} has no band {unknown[0]} (has {' '.join(known)})")
        return list(self.bands or known)


def read_rows(path: Path, download: str) -> Iterator[list[str]]:
    """Read the rows of a CSV file, except empty ones; at least one.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    download : str
        Where to get it, for the error message.

    Raises
    ------
    RasterError
        The file is missing, empty or unreadable.
    """
    try:
        with io.TextIOWrapper(io.BufferedReader(open_regular(path)), encoding="utf-8", newline="") as file:
            row = None
            for row in filter(None, csv.reader(file)):
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise RasterError(f"{reason}; download it from {download}", str(path)) from None
    if row is None:
        raise RasterError(f"is empty; download it from {download}", str(path))


def missing(path: Path, download: str) -> RasterError:
    """Return the error for a file that a download should have brought."""
    return RasterError(f"is missing; it is part of {download}", str(path))


def check_below(name: str, listed_in: Path) -> str:
    """Check that a path in a list leads to a place below the dataset's directory.

    Raises
    ------
    RasterError
        It is empty, absolute, or leads up.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise RasterError(f"lists {name!r}, which is outside the dataset", str(listed_in))
    return name
