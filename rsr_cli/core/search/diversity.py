"""Hits that do not all say the same: which of a ranking are taken.

Hits are taken greedily, in the order of their ranks: each one that is compatible with those taken before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rsr_cli.core.search.hits import Hit
from rsr_cli.core.search.places import circles_around, equal_area, metres, shares

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index.reading import Index

#: Footprints that share more of the larger one's area are one place. Tiles that are cut at half their size as stride
#: share half, and a thousandth more by the rounding of their corners.
SAME_PLACE = 0.501
#: By how much more rows must be too near to be known so by their boxes, which are rounded to float32.
SPARE_M = 10


@dataclass(frozen=True)
class Diversity:
    """What hits must not have in common.

    Attributes
    ----------
    min_distance_m : float or None
        Least great-circle distance between the centres of two hits' footprints, in metres, see `places.metres`. A
        record without a place is no hit then, since it may be anywhere.
    per_scene : int or None
        Greatest number of hits of one scene, see `fields.scene_of`.
    one_per_place : bool
        Only the nearest of hits whose footprints are the same: those with the same ``grid:code``, or if not both have
        one, those that share more than half of the larger one's area.
    """

    min_distance_m: float | None = None
    per_scene: int | None = None
    one_per_place: bool = False

    def admits(self, hit: Hit, taken: Sequence[Hit]) -> bool:
        """Return whether a hit may be taken beside those that are."""
        if self.min_distance_m is not None:
            if hit.centre is None:
                return False
            apart = metres(np.array([other.centre for other in taken]).reshape(-1, 3), hit.centre)
            if apart.min(initial=np.inf) < self.min_distance_m:
                return False
        if self.per_scene is not None and sum(other.scene == hit.scene for other in taken) >= self.per_scene:
            return False
        return not (self.one_per_place and any(_is_same_place(hit, other) for other in taken))


ALL = Diversity()


class Chooser:
    """Takes hits from a ranking.

    Parameters
    ----------
    index : Index
        Contains the records.
    k : int or None
        Greatest number of hits.
    diversity : Diversity
        What they must not have in common.

    Attributes
    ----------
    taken : list of Hit
        In the order of their ranks.
    placeless : bool
        Whether hits were left out because their distance to others is not known.
    """

    def __init__(self, index: Index, k: int | None, diversity: Diversity = ALL) -> None:
        self._index = index
        self._k = k
        self._diversity = diversity
        self._seen = 0
        self.taken: list[Hit] = []
        self.placeless = False

    def see(self, distances: NDArray[np.float64], rows: NDArray[np.int64]) -> bool:
        """Take hits from a ranking that begins as the one seen before, and return whether it need not go on."""
        distances, rows = distances[self._seen :], rows[self._seen :]
        self._seen += len(rows)
        may_be_far = self._far_rows(rows)
        possible = np.ones(len(rows), np.bool_)
        if may_be_far:
            for hit in self.taken:
                possible &= may_be_far(hit)
        for i, (distance, row) in enumerate(zip(distances.tolist(), rows.tolist(), strict=True)):
            if self.full:
                break
            if not possible[i]:
                continue
            hit = Hit.at(self._index, distance, row)
            if self._diversity.admits(hit, self.taken):
                self.taken.append(hit)
                if may_be_far:
                    possible &= may_be_far(hit)
            elif may_be_far and hit.centre is None:
                self.placeless = True
        return self.full

    @property
    def full(self) -> bool:
        """Whether there are as many hits as were asked for."""
        return len(self.taken) == self._k

    def _far_rows(self, rows: NDArray[np.int64]) -> Callable[[Hit], NDArray[np.bool_]] | None:
        """Return which rows may be far enough from a hit, as a function of it: the records of others are not read."""
        least_m = self._diversity.min_distance_m
        if least_m is None:
            return None
        middles, radii_m = circles_around(self._index, rows)
        return lambda hit: ~(metres(middles, hit.centre) + radii_m < least_m - SPARE_M)


def _is_same_place(hit: Hit, other: Hit) -> bool:
    codes = [each.record["properties"].get("grid:code") for each in (hit, other)]
    if None not in codes:
        return bool(codes[0] == codes[1])
    if hit.footprint is None or other.footprint is None:
        return False
    return shares(equal_area(hit.footprint), equal_area(other.footprint), SAME_PLACE, max)
