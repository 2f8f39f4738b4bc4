"""Transforms of embeddings: to unit length, centred, and mostly turned to other directions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import FingerprintError, RsrError, UsageError
from rsr_cli.core.fitted.registry import FIT_METHODS
from rsr_cli.core.fitted.state import Fitted
from rsr_cli.core.records.space import EMBEDDING_FACTS, TRANSFORM_FACTS, Space, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rsr_cli.core.fitted.sample import Reservoir
    from rsr_cli.core.records.batch import Batch

ITERATIONS = 50  # of ITQ, as published
#: Variance below which an embedding of unit length varies by the rounding of float32 alone.
LEAST_VARIANCE = 2.0**-46
#: Hexadecimal digits of a file's sha256 that records state.
DIGITS = 16


class Transform:
    r"""Maps embeddings of one space to embeddings of another one: :math:`W (x / |x| - m)`.

    Computed in float64. A vector of zeros is not scaled.

    Parameters
    ----------
    fitted : Fitted
        Its ``centre``, :math:`m`, is float32 (dim,); its ``directions``, :math:`W`, float32 (dims, dim) or absent.
    place : str
        The file, for messages.

    Attributes
    ----------
    of, space : Space
        Of the embeddings that it takes, and of those that it makes.
    place : str
        The file.

    Raises
    ------
    RsrError
        The arrays do not fit together, or not the space.
    """

    def __init__(self, fitted: Fitted, place: str) -> None:
        self.fitted = fitted
        self.of = fitted.of
        self.place = place
        centre, directions = fitted.arrays.get("centre"), fitted.arrays.get("directions")
        shape = (0 if directions is None else len(directions), self.of.size)
        if (
            centre is None
            or centre.shape != (self.of.size,)
            or not (directions is None or (directions.shape == shape and len(directions)))
        ):
            raise RsrError(f"is no transform of {self.of.size} dimensions", place, remedy="fit")
        self._centre = centre.astype(np.float64)
        self._directions = None if directions is None else directions.astype(np.float64).T
        self.dim = shape[0] or self.of.size
        self.space = self.space_of(self.of)

    def space_of(self, of: Space) -> Space:
        """Return the space of what it makes of embeddings of a space.

        Raises
        ------
        FingerprintError
            It was fitted to embeddings of another space.
        UsageError
            The embeddings are transformed already.
        """
        if not self.takes(of):
            what = f"the embeddings are in another vector space than what it was fitted to ({of.difference(self.of)})"
            raise FingerprintError(what, self.place, remedy="same-space")
        if "transform" in of.facts:
            raise UsageError("it was fitted to embeddings that are transformed already", self.place)
        made_by = {key: of.facts[key] for key in EMBEDDING_FACTS if key in of.facts}
        stated = dict(zip(TRANSFORM_FACTS, (self.method, self.digest[:DIGITS], of.fingerprint), strict=True))
        hashed: dict[str, Any] = {"transform": self.digest, "of": of.fingerprint, "dim": self.dim}
        recipe = {**hashed, "method": self.method, **self.fitted.settings, "embedding": of.recipe}
        facts = {**made_by, "transform": stated}
        return Space("embedding", self.dim, "float32", fingerprint(hashed), facts, recipe)

    @classmethod
    def read(cls, path: Path | str) -> Transform:
        """Read a file; raise RsrError if it is none of a transform."""
        return cls(Fitted.read(Path(path)), str(path))

    @property
    def method(self) -> str:
        """How it was learned."""
        return self.fitted.method

    @property
    def digest(self) -> str:
        """The sha256 of the file."""
        return self.fitted.digest

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 (n, dims) of embeddings, float32 (n, dim)."""
        wide = _of_unit_length(embeddings) - self._centre
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


def fit(method: str, drawn: Reservoir, size: int | None, seed: int) -> Fitted:
    """Learn from the sample of a stream, as `learn` does."""
    sample = drawn.drawn()
    assert drawn.space is not None
    settings = {"seed": seed, "sample": len(sample)}
    return Fitted.make(method, drawn.space, learn(method, sample, size, seed), settings)


def learn(method: str, sample: NDArray[np.float32], size: int | None, seed: int) -> dict[str, NDArray[np.float32]]:
    """Learn the arrays of a transform from a sample.

    - ``mean``, ``median``: the centre alone.
    - ``pca``: the directions in which the sample varies most, those of the covariance's greatest eigenvalues. The
      greatest coefficient of each is positive.
    - ``whiten``: the same, divided by the standard deviation along them.
    - ``itq``: as many principal components as bits, turned by iterative quantization (Gong et al. 2013), as faiss does.

    Parameters
    ----------
    method : str
        Its name in `registry.FIT_METHODS`.
    sample : numpy.ndarray
        float32 (n, dim).
    size : int or None
        Number of directions, for methods that choose.
    seed : int
        Of the rotation that ITQ begins with.

    Raises
    ------
    UsageError
        The sample varies in fewer directions.
    """
    wide = _of_unit_length(sample)
    if method == "median":
        return {"centre": np.median(wide, axis=0).astype(np.float32)}
    centre = wide.mean(axis=0)
    if size is None:
        return {"centre": centre.astype(np.float32)}
    wide -= centre
    variances, directions = np.linalg.eigh(wide.T @ wide / max(1, len(wide) - 1))
    variances, directions = variances[::-1], directions.T[::-1]
    varied = int(np.count_nonzero(variances > LEAST_VARIANCE))
    if size > varied:
        what = f"the sample of {len(sample)} embeddings varies in {varied} directions, fewer than {size}"
        raise UsageError(what, remedy=f"fewer-{FIT_METHODS[method].size}")
    variances, directions = variances[:size], directions[:size]
    greatest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(size), greatest])[:, None]
    if method == "whiten":
        directions = directions / np.sqrt(variances)[:, None]
    if method == "itq":
        directions = _itq((wide @ directions.T).astype(np.float32), seed) @ directions
    return {"centre": centre.astype(np.float32), "directions": directions.astype(np.float32)}


def _of_unit_length(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = embeddings.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    wide /= np.where(norms > 0, norms, 1)
    return wide


def _itq(points: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Return the rotation (bits, bits) of points (n, bits) whose signs are nearest to what they are of."""
    import faiss

    itq: Any = faiss.ITQMatrix(points.shape[1])
    itq.seed, itq.max_iter = seed, ITERATIONS
    itq.train(points)
    turned: NDArray[np.float32] = faiss.vector_to_array(itq.A)
    return turned.reshape(points.shape[1], -1).astype(np.float64)
