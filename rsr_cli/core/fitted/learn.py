"""Learning from a sample: the arrays of transforms, and of codes that are fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import UsageError
from rsr_cli.core.fitted.registry import FIT_METHODS
from rsr_cli.core.fitted.state import Fitted
from rsr_cli.core.fitted.transform import of_unit_length

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsr_cli.core.fitted.sample import Reservoir

ITERATIONS = {"itq": 50, "pq": 25}  # as published, and as faiss has it
#: Variance below which an embedding of unit length varies by the rounding of float32 alone.
LEAST_VARIANCE = 2.0**-46
#: Centroids of each part of a product quantizer, one byte.
CENTROIDS = 256


def fit(method: str, drawn: Reservoir, size: int | None, seed: int) -> Fitted:
    """Learn from the sample of a stream, as `learn` does, which has the parameters.

    Raises
    ------
    UsageError
        As of `learn`; or the embeddings are transformed already, and the method is a transform.
    """
    sample = drawn.drawn()
    assert drawn.space is not None
    if drawn.space.facts.get("transform") and not FIT_METHODS[method].is_code:
        raise UsageError(f"the embeddings are transformed already, and {method} is a transform", remedy="untransformed")
    settings = {"seed": seed, "sample": len(sample)}
    return Fitted.make(method, drawn.space, learn(method, sample, size, seed), settings)


def learn(method: str, sample: NDArray[np.float32], size: int | None, seed: int) -> dict[str, NDArray[np.float32]]:
    """Learn the arrays of a transform from a sample.

    - ``mean``, ``median``: the centre alone.
    - ``pca``: the directions in which the sample varies most, those of the covariance's greatest eigenvalues. The
      greatest coefficient of each is positive.
    - ``whiten``: the same, divided by the standard deviation along them.
    - ``itq``: as many principal components as bits, turned by iterative quantization (Gong et al. 2013), as faiss does.
    - ``pq``: for each of ``bits / 8`` parts of the dimensions 256 ``centroids``, float32 (parts, 256, dim / parts), by
      faiss's k-means (Jegou et al. 2011).
    - ``rabitq``: the centre, which is the mean.

    Parameters
    ----------
    method : str
        Its name in `registry.FIT_METHODS`.
    sample : numpy.ndarray
        float32 (n, dim).
    size : int or None
        Number of directions, or of bits, for methods that choose.
    seed : int
        Of the rotation that ITQ begins with, and of the rows that k-means does.

    Raises
    ------
    UsageError
        The sample varies in fewer directions, or has fewer embeddings than centroids, or the dimensions have no such
        parts.
    """
    wide = of_unit_length(sample)
    if method == "pq":
        assert size is not None
        return {"centroids": _product_quantizer(wide.astype(np.float32), size, seed)}
    if method == "median":
        return {"centre": np.median(wide, axis=0).astype(np.float32)}
    centre = wide.mean(axis=0)
    if size is None:
        return {"centre": centre.astype(np.float32)}
    wide -= centre
    variances, directions = np.linalg.eigh(wide.T @ wide / max(1, len(wide) - 1))
    variances, directions = variances[::-1], directions.T[::-1]
    varied = int(np.count_nonzero(variances > LEAST_VARIANCE))
    name = FIT_METHODS[method].size
    if size > len(variances):
        what = f"the embeddings have {len(variances)} dimensions, fewer than {size}"
        raise UsageError(what, remedy=f"{name}-at-most")
    if size > varied:
        what = f"the sample of {len(sample)} embeddings varies in {varied} directions, fewer than {size}"
        raise UsageError(what, remedy=f"fewer-{name}")
    variances, directions = variances[:size], directions[:size]
    greatest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(size), greatest])[:, None]
    if method == "whiten":
        directions = directions / np.sqrt(variances)[:, None]
    if method == "itq":
        directions = _itq((wide @ directions.T).astype(np.float32), seed) @ directions
    return {"centre": centre.astype(np.float32), "directions": directions.astype(np.float32)}


def _int32(seed: int) -> int:
    """Return the number that has the bits of a seed, as faiss takes it."""
    return seed - (seed >> 31 << 32)


def _itq(points: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Return the rotation (bits, bits) of points (n, bits) whose signs are nearest to what they are of."""
    import faiss

    itq: Any = faiss.ITQMatrix(points.shape[1])
    itq.seed, itq.max_iter = _int32(seed), ITERATIONS["itq"]
    itq.train(points)
    turned: NDArray[np.float32] = faiss.vector_to_array(itq.A)
    return turned.reshape(points.shape[1], -1).astype(np.float64)


def _product_quantizer(sample: NDArray[np.float32], bits: int, seed: int) -> NDArray[np.float32]:
    """Return the centroids of a product quantizer, float32 (parts, 256, dim / parts)."""
    import faiss

    parts, dim = bits // 8, sample.shape[1]
    if bits % 8 or dim % parts:
        what = f"pq needs a number of bytes that divides the {dim} dimensions, and not {bits / 8:g}"
        raise UsageError(what, remedy="bits-of-parts")
    if len(sample) < CENTROIDS:
        what = f"pq learns {CENTROIDS} centroids, and the sample has {len(sample)} embeddings"
        raise UsageError(what, remedy="larger-sample")
    quantizer: Any = faiss.ProductQuantizer(dim, parts, 8)
    quantizer.cp.seed, quantizer.cp.niter = _int32(seed), ITERATIONS["pq"]
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(sample)
    found: NDArray[np.float32] = faiss.vector_to_array(quantizer.centroids)
    return found.reshape(parts, CENTROIDS, dim // parts)
