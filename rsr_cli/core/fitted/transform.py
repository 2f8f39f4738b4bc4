"""Transforms of embeddings: to unit length, centred, and mostly turned to other directions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import RsrError, UsageError
from rsr_cli.core.fitted.registry import FIT_METHODS
from rsr_cli.core.fitted.state import Fitted
from rsr_cli.core.records.space import EMBEDDING_FACTS, TRANSFORM_FACTS, Space, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch


class Transform:
    r"""Maps embeddings of one space to embeddings of another one: :math:`W (x / |x| - m)`.

    Computed in float64. A vector of zeros is not scaled.

    Parameters
    ----------
    fitted : Fitted
        Its ``centre``, :math:`m`, is float32 (dim,); its ``directions``, :math:`W`, float32 (dims, dim) or absent.

    Attributes
    ----------
    of, space : Space
        Of the embeddings that it takes, and of those that it makes.

    Raises
    ------
    RsrError
        The arrays do not fit together, or not the space.
    """

    def __init__(self, fitted: Fitted) -> None:
        self.fitted = fitted
        self.of = fitted.of
        if FIT_METHODS[fitted.method].is_code:
            what = f"was learned for codes of {fitted.method}, and transforms no embeddings"
            raise RsrError(what, fitted.place, remedy="codes-with")
        centre, directions = fitted.arrays.get("centre"), fitted.arrays.get("directions")
        if centre is None or centre.shape != (self.of.size,) or not self._is_fit(directions):
            raise RsrError(f"is no transform of {self.of.size} dimensions", fitted.place, remedy="fit")
        self._centre = centre.astype(np.float64)
        self._directions = None if directions is None else directions.astype(np.float64).T
        self.dim = self.of.size if directions is None else len(directions)
        self.space = self.space_of(self.of)

    def _is_fit(self, directions: NDArray[np.float32] | None) -> bool:
        """Return whether the method has such directions."""
        if FIT_METHODS[self.fitted.method].size is None:
            return directions is None
        return (
            directions is not None
            and directions.ndim == 2
            and directions.shape[1] == self.of.size
            and len(directions) > 0
        )

    def space_of(self, of: Space) -> Space:
        """Return the space of what it makes of embeddings of a space.

        Raises
        ------
        FingerprintError
            It was fitted to embeddings of another space.
        UsageError
            The embeddings are transformed already.
        """
        self.fitted.check_space(of)
        if of.facts.get("transform"):
            raise UsageError("it was fitted to embeddings that are transformed already", self.fitted.place)
        made_by = {key: of.facts[key] for key in EMBEDDING_FACTS if key in of.facts}
        stated = dict(zip(TRANSFORM_FACTS, (self.fitted.method, self.fitted.short_digest, of.fingerprint), strict=True))
        hashed: dict[str, Any] = {"transform": self.fitted.digest, "of": of.fingerprint, "dim": self.dim}
        recipe = {**hashed, "method": self.fitted.method, **self.fitted.settings, "embedding": of.recipe}
        facts = {**made_by, "transform": stated}
        return Space("embedding", self.dim, "float32", fingerprint(hashed), facts, recipe)

    @classmethod
    def read(cls, path: Path | str) -> Transform:
        """Read a file; raise RsrError if it is none of a transform."""
        return cls(Fitted.read(Path(path)))

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 (n, dims) of embeddings, float32 (n, dim)."""
        wide = of_unit_length(embeddings) - self._centre
        return (wide if self._directions is None else wide @ self._directions).astype(np.float32)

    def takes(self, space: Space) -> bool:
        """Return whether embeddings of a space are what it was fitted to."""
        return (space.fingerprint, space.size) == (self.of.fingerprint, self.of.size)

    def batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Replace the embeddings of batches, which are changed in place.

        Raises
        ------
        FingerprintError, UsageError
            As of `space_of`.
        """
        space = None
        for batch in batches:
            if batch.vectors is None or batch.space is None:
                continue
            space = space or self.space_of(batch.space)
            batch.vectors, batch.space = self(batch.vectors), space
            yield batch


def of_unit_length(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return embeddings (n, dim) in float64, scaled to length 1; a vector of zeros stays."""
    wide = embeddings.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    wide /= np.where(norms > 0, norms, 1)
    return wide
