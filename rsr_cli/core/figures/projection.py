"""t-SNE: a sample of vectors laid out as points in a plane."""

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

#: scikit-learn's default; of few points, a third of their number, because it must be less than the number.
PERPLEXITY = 30


@dataclass
class Points:
    """Records as points in a plane.

    Attributes
    ----------
    places : numpy.ndarray
        float32 (n, 2).
    labels : list of tuple of str
        Labels of each record, in the record's order; empty if it has none.
    kind : str
        ``embedding`` or ``code``.
    head : dict
        The properties that all vectors share.
    """

    places: NDArray[np.float32]
    labels: list[tuple[str, ...]]
    kind: Kind
    head: dict[str, Any]


def project(batches: Iterable[Batch], size: int, seed: int, skips: Skips) -> Points:
    """Draw a random sample of records and lay it out by t-SNE.

    Codes are compared by Hamming distance, embeddings by Euclidean distance. Every record is sampled with the same
    probability, whatever their number (Vitter 1985, algorithm R). t-SNE is scikit-learn's (van der Maaten and Hinton
    2008; van der Maaten 2014).

    Parameters
    ----------
    batches : iterable of Batch
        Records with a code or an embedding; the first record decides which is read.
    size : int
        Maximum size of the sample.
    seed : int
        Seed for the sample, and for t-SNE if it does not start from principal components.
    skips : Skips
        Asked about records that cannot be used.

    Raises
    ------
    RecordError
        A record does not have the vector, or has malformed labels.
    FingerprintError
        The vectors are from different spaces.
    RsrError
        There are fewer than 3 records, or all vectors are equal.
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
        raise RsrError(f"t-SNE needs 3 records or more, and {len(drawn)} came in")
    values = np.stack([vector for vector, _ in drawn])
    if vectors.kind == "code":
        values = np.unpackbits(values, axis=1, count=vectors.head["bits"])
    if (values == values[0]).all():
        raise RsrError(f"the {vectors.kind}s of all {len(drawn)} records are the same, so t-SNE cannot lay them out")
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
