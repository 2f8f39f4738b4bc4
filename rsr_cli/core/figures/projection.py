"""t-SNE: a sample of vectors as points in a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import RsrError, Skips
from rsr_cli.core.scoring.evaluation import label_list

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Kind, Space

#: t-SNE's own default; of few points a third, for it has to be less than there are.
PERPLEXITY = 30


@dataclass
class Points:
    """Records as points in a plane.

    Attributes
    ----------
    places : numpy.ndarray
        float32 (n, 2).
    labels : list of tuple of str
        Each record's, in its order; empty where it has none.
    space : Space
        The space of their vectors.
    """

    places: NDArray[np.float32]
    labels: list[tuple[str, ...]]
    space: Space


def project(batches: Iterable[Batch], size: int, seed: int, skips: Skips) -> Points:
    """Draw records and lay them out by t-SNE, codes by Hamming's distance, embeddings by Euclid's.

    Every record has the same chance to be drawn, whatever their number (Vitter 1985, algorithm R). t-SNE is
    scikit-learn's (van der Maaten and Hinton 2008; van der Maaten 2014).

    Parameters
    ----------
    batches : iterable of Batch
        Records with a code or an embedding; the first one decides which is read.
    size : int
        At most so many are drawn.
    seed : int
        Of the draw, and of t-SNE where it does not begin with principal components.
    skips : Skips
        Asked about records that cannot be used.

    Raises
    ------
    RecordError
        A record has no such vector, or malformed labels.
    FingerprintError
        The vectors are of two spaces.
    RsrError
        There are fewer than 3 records, or all vectors are the same.
    """
    random = np.random.default_rng(seed)
    drawn: list[tuple[NDArray[Any], tuple[str, ...]]] = []
    space, seen = None, 0
    for batch in batches:
        labels = batch.apply(lambda record: tuple(label_list(record, "labels") or ()), skips)
        if batch.vectors is None:
            continue
        space = space or batch.space
        for vector, names in zip(batch.vectors, labels, strict=True):
            seen += 1
            slot = len(drawn) if len(drawn) < size else random.integers(seen)
            if slot < size:
                drawn[slot : slot + 1] = [(vector.copy(), names)]  # a view would keep its whole batch
    if space is None or len(drawn) < 3:
        raise RsrError(f"t-SNE needs 3 records or more, and {len(drawn)} came in; see rsr embed")
    values = np.stack([vector for vector, _ in drawn])
    if space.kind == "code":
        values = np.unpackbits(values, axis=1, count=space.size)
    if (values == values[0]).all():
        raise RsrError(f"the {space.kind}s of all {len(drawn)} records are the same, and t-SNE cannot lay them out")
    return Points(_tsne(values, space.kind, seed), [labels for _, labels in drawn], space)


def _tsne(values: NDArray[Any], kind: Kind, seed: int) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE

    layout = TSNE(
        perplexity=min(PERPLEXITY, (len(values) - 1) / 3),
        metric="hamming" if kind == "code" else "euclidean",
        init="pca" if values.shape[1] > 1 else "random",
        random_state=seed,
    )
    return np.asarray(layout.fit_transform(values.astype(np.float32)), np.float32)
