"""t-SNE: a sample of vectors as points in a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import RecordError, RsrError, Skips
from rsr_cli.core.records.fields import Vectors, kind_of
from rsr_cli.core.scoring.labels import label_list

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.fields import Kind

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
    kind : str
        ``embedding`` or ``code``.
    head : dict
        What their vectors share.
    """

    places: NDArray[np.float32]
    labels: list[tuple[str, ...]]
    kind: Kind
    head: dict[str, Any]


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
    vectors, seen = None, 0
    for batch in batches:
        vectors = vectors or Vectors(kind_of(batch.records))
        for i, vector in enumerate(vectors.take(batch, skips)):
            try:
                labels = tuple(label_list(batch.records[i], "labels") or ())
            except RecordError as error:
                error.place = batch.place(i)
                skips(error)
                continue
            one = vector.copy(), labels
            seen += 1
            if len(drawn) < size:
                drawn.append(one)
            elif (slot := random.integers(seen)) < size:
                drawn[slot] = one
    if vectors is None or vectors.head is None or len(drawn) < 3:
        raise RsrError(f"t-SNE needs 3 records or more, and {len(drawn)} came in; see rsr embed")
    values = np.stack([vector for vector, _ in drawn])
    if vectors.kind == "code":
        values = np.unpackbits(values, axis=1, count=vectors.head["bits"])
    if (values == values[0]).all():
        raise RsrError(f"the {vectors.kind}s of all {len(drawn)} records are the same, and t-SNE cannot lay them out")
    return Points(_tsne(values, vectors.kind, seed), [labels for _, labels in drawn], vectors.kind, vectors.head)


def _tsne(values: NDArray[Any], kind: Kind, seed: int) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE

    layout = TSNE(
        perplexity=min(PERPLEXITY, (len(values) - 1) / 3),
        metric="hamming" if kind == "code" else "euclidean",
        init="pca" if values.shape[1] > 1 else "random",
        random_state=seed,
    )
    return np.asarray(layout.fit_transform(values.astype(np.float32)), np.float32)
