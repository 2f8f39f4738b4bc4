"""How the bands of a multi-band file get their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsr_cli.core.errors import BandError, counted
from rsr_cli.core.sensors.base import COMMON_NAMES, STAND_INS, UNUSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsr_cli.core.sensors.base import Sensor


@dataclass(frozen=True)
class Naming:
    """The names of a file's bands.

    Attributes
    ----------
    names : tuple of str
        One name per band with data; ``-`` where a band has no name. If there are as many as bands in the file, none of
        them is alpha.
    unknown : tuple of str
        The descriptions of bands that are not used because these mean nothing.
    contradicted : tuple of tuple of int and str and str
        Number of a band, the name that its description means, and the one that the user gave it.
    """

    names: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    contradicted: tuple[tuple[int, str, str], ...] = ()


def name_bands(
    descriptions: Sequence[str | None], alphas: Sequence[bool], sensor: Sensor | None, given: Sequence[str] | None
) -> Naming:
    """Name the bands of a multi-band file: as the user does, else as the file does, else as the sensor orders them.

    Parameters
    ----------
    descriptions : sequence of str or None
        The file's own descriptions of its bands.
    alphas : sequence of bool
        Which bands the file flags as alpha. GDAL flags the fourth of four 8-bit bands, near infrared or not: a name
        counts for more.
    sensor : Sensor, optional
        The descriptions may be its band numbers (``B8A``); without usable descriptions its band order applies.
    given : sequence of str, optional
        Names in the file's order, ``-`` for a band that is not used.

    Raises
    ------
    BandError
        The bands cannot be told apart, or their number is not the expected one.
    """
    texts = [(text or "").strip() for text in descriptions]
    if given and len(given) == len(texts):
        flagged = [name for name, alpha in zip(given, alphas, strict=True) if alpha]
        kept = given
        if not any(name != UNUSED for name in flagged):
            kept = [name for name, alpha in zip(given, alphas, strict=True) if not alpha]
        return Naming(tuple(kept), contradicted=_contradicted(given, texts, sensor))
    if not any(alpha and _described(text, sensor) for text, alpha in zip(texts, alphas, strict=True)):
        texts = [text for text, alpha in zip(texts, alphas, strict=True) if not alpha]
    if given:
        if len(given) == len(texts):
            return Naming(tuple(given), contradicted=_contradicted(given, texts, sensor))
        named = f"{len(given)} {'is' if len(given) == 1 else 'are'} named"
        raise BandError(f"has {counted(len(texts), 'band')}, not counting alpha, but {named}", remedy="bands")
    names = [_described(text, sensor) for text in texts]
    known = [name for name in names if name]
    if known and len(set(known)) == len(known) and all(texts):
        unknown = [text for text, name in zip(texts, names, strict=True) if not name and text != UNUSED]
        return Naming(tuple(name or UNUSED for name in names), tuple(unknown))
    if sensor is None:
        found = f" ({', '.join(text or 'none' for text in texts[:4])}, ...)" if any(texts) else ""
        raise BandError(
            f"has {counted(len(texts), 'band')}, not each described by a STAC common name{found}",
            remedy="sensor-or-bands",
        )
    return Naming(_ordered(names, len(descriptions), sensor))


def _contradicted(
    given: Sequence[str], texts: Sequence[str], sensor: Sensor | None
) -> tuple[tuple[int, str, str], ...]:
    """Return where descriptions mean other bands than the user does, see `Naming`: not just nearly the same one."""
    meant = [_described(text, sensor) for text in texts]
    return tuple(
        (number, name, mine)
        for number, (name, mine) in enumerate(zip(meant, given, strict=True), 1)
        if name and mine in COMMON_NAMES and mine not in (name, STAND_INS.get(name))
    )


def _ordered(names: Sequence[str | None], count: int, sensor: Sensor) -> tuple[str, ...]:
    """Return the sensor's names of bands of which the file names some, or none; ``count`` includes alpha."""
    if len(sensor.order) not in (len(names), count):
        raise BandError(
            f"has {counted(len(names), 'band')}, but files of {sensor.name} have {len(sensor.order)}", remedy="bands"
        )
    for number, (name, expected) in enumerate(zip(names, sensor.order, strict=False), 1):
        if name not in (None, expected):
            raise BandError(
                f"describes band {number} as {name}, which is {expected} in files of {sensor.name}", remedy="bands"
            )
    return sensor.order


def _described(text: str, sensor: Sensor | None) -> str | None:
    """Return the name that a description states, or None."""
    if text.lower() in COMMON_NAMES:
        return text.lower()
    return sensor.common_name(text) if sensor else None
