"""t-SNE: a sample of vectors laid out as points in a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_cli.core.errors import RsrError, Skips, UsageError
from rsr_cli.core.records.fields import label_list

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.space import Kind, Space

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
    space : Space
        The space of their vectors.
    """

    places: NDArray[np.float32]
    labels: list[tuple[str, ...]]
    space: Space


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
    UsageError
        The codes are not compared by Hamming distance.
    RsrError
        There are fewer than 3 records, or all vectors are equal.
    """
    random = np.random.default_rng(seed)
    drawn: list[tuple[NDArray[Any], tuple[str, ...]]] = []
    space, seen = None, 0
    for batch in batches:
        labels = batch.apply(lambda record: tuple(label_list(record) or ()), skips)
        if batch.vectors is None:
            continue
        space = space or batch.space
        if space and space.kind == "code" and space.facts.get("fit"):
            what = f"codes of {space.facts.get('method')} are not compared by Hamming distance"
            raise UsageError(what, batch.name, remedy="plot-embeddings")
        for vector, names in zip(batch.vectors, labels, strict=True):
            seen += 1
            slot = len(drawn) if len(drawn) < size else random.integers(seen)
            if slot < size:
                drawn[slot : slot + 1] = [(vector.copy(), names)]  # a view would keep its whole batch
    if space is None or len(drawn) < 3:
        raise RsrError(f"t-SNE needs 3 records or more, and {len(drawn)} came in")
    values = np.stack([vector for vector, _ in drawn])
    if space.kind == "code":
        values = np.unpackbits(values, axis=1, count=space.size)
    if (values == values[0]).all():
        raise RsrError(f"the {space.kind}s of all {len(drawn)} records are the same, so t-SNE cannot lay them out")
    return Points(_tsne(values, space.kind, seed), [labels for _, labels in drawn], space)


def _tsne(values: NDArray[Any], kind: Kind, seed: int) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE

    # of any scale, as none changes the layout: their squares would not be float32
    values = values / np.abs(values).max().astype(np.float32)
    layout = TSNE(
        perplexity=min(PERPLEXITY, (len(values) - 1) / 3),
        metric="hamming" if kind == "code" else "euclidean",
        init="pca" if values.shape[1] > 1 else "random",
        random_state=seed,
    )
    return np.asarray(layout.fit_transform(values.astype(np.float32)), np.float32)
