"""Quality bands: which of their numbers mark clouds, shadows and fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Marks:
    """Numbers of a band that mark a pixel.

    Attributes
    ----------
    values : tuple of int
        A pixel with one of these numbers is marked.
    bits : tuple of int
        A pixel is marked if one of these bits of its number is set; 0 is the least significant one.
    """

    values: tuple[int, ...] = ()
    bits: tuple[int, ...] = ()

    @classmethod
    def of_property(cls, mask: dict[str, Any]) -> Marks:
        """Read the marks of a record's ``mask``."""
        return cls(tuple(mask.get("values", ())), tuple(mask.get("bits", ())))

    def as_property(self) -> dict[str, list[int]]:
        """Return what a record's ``mask`` states: ``values``, ``bits``, or both."""
        return {key: list(given) for key, given in (("values", self.values), ("bits", self.bits)) if given}


@dataclass(frozen=True)
class QualityBand:
    """The band of a product that classifies its pixels.

    Attributes
    ----------
    band : str
        Name in the product, as files and descriptions have it: ``SCL``.
    clouds : Marks
        Clouds, which count as cloud cover.
    doubtful : Marks
        Shadows of clouds, and what is next to clouds.
    fill : Marks
        Pixels that were not observed, which do not count at all.
    former : tuple of str
        Names of the band in earlier products, where its numbers mean something else.
    """

    band: str
    clouds: Marks
    doubtful: Marks = field(default_factory=Marks)
    fill: Marks = field(default_factory=Marks)
    former: tuple[str, ...] = ()

    @property
    def masked(self) -> Marks:
        """All that is not clear ground."""
        parts = (self.clouds, self.doubtful, self.fill)
        return Marks(
            tuple(sorted(value for marks in parts for value in marks.values)),
            tuple(sorted(bit for marks in parts for bit in marks.bits)),
        )
