"""One query of several examples: some that the hits are to be like, and some that they are not to be like."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rsr_cli.core.errors import RsrError
from rsr_cli.core.index.flat import ranked
from rsr_cli.core.index.manifest import HAMMING, MAX_NORM
from rsr_cli.core.records.fields import id_of, label_list
from rsr_cli.core.search.queries import asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rsr_cli.core.index.flat import Found
    from rsr_cli.core.search.queries import Item
    from rsr_cli.core.search.scope import Ranked, Scope

Combine = Literal["mean", "best"]
#: Examples cancel out if what is left is shorter than this share of the longest one.
CANCELLED = 1e-6
#: Letters of a query's id, which is made of its examples' ids.
NAME_LETTERS = 80


class Examples:
    """A query of several examples.

    - ``mean``, embeddings: the query is the mean of what is like, and if something is unlike twice that mean less the
      mean of what is unlike (Rocchio 1971, with the weights 1, 1 and 1). For ``cosine`` examples are of unit length.
    - ``mean``, codes: the same of distances. That of a row is its mean distance to what is like, and if something is
      unlike twice that less its mean distance to what is unlike, in bits; it may be below 0.
    - ``mean``, codes of examples that all have embeddings, and ask by weights of bits: the query is the mean of their
      values, at unit length as for ``cosine``.
    - ``mean``, codes with a distance of their own: the mean of what they are decoded to, as of embeddings.
    - ``best``: the distance of a row is that to the nearest example that it is to be like. A row that is nearer to one
      that it is not to be like than to every one that it is to be like is no hit.

    If codes are ranked again, the shortlist is that of what is like, by ``best``, or by the mean of distances; then
    both are those of embeddings.

    Parameters
    ----------
    scope : Scope
        What is searched.
    likes, unlikes : sequence of Item
        The examples; at least one is like.
    combine : str
        ``mean`` or ``best``.

    Attributes
    ----------
    name : str
        The query's id: those of the examples, such as ``a+b-c``. One that is too long is cut, and ends with a digest.
    labels : list of str or None
        Those that all that is like has.
    rows : numpy.ndarray
        int64: rows of the examples in the index, sorted.
    rejected : bool
        Whether rows were found that are nearer to what is unlike.
    shortlisted : int
        Number of codes that were ranked again.

    Raises
    ------
    RsrError
        The examples cancel out, or they are too long for float32 together.
    """

    def __init__(self, scope: Scope, likes: Sequence[Item], unlikes: Sequence[Item], combine: Combine) -> None:
        self._scope = scope if scope.rerank is None else replace(scope, radius=None)
        self._radius = scope.radius
        vectors = asked([*likes, *unlikes])
        self._likes, self._unlikes = vectors[: len(likes)], vectors[len(likes) :]
        self.name = _name(likes, unlikes)
        self.labels = _common_labels(likes)
        self.rows = np.unique(np.array([item.row for item in (*likes, *unlikes) if item.row is not None], np.int64))
        self.rejected = False
        self.shortlisted = 0
        self.search: Callable[[int | None, NDArray[np.int64]], Ranked]
        metric = scope.index.manifest.metric
        by_codes = metric == HAMMING and vectors.dtype == np.uint8
        self._mean = self._mean_distance if by_codes else self._mean_vector
        if combine == "mean" and not by_codes:  # a direction alone decides weights of bits, as it does a cosine
            by = "l2" if scope.index.code else "cosine" if metric == HAMMING else metric
            self._vector = _rocchio(self._likes, self._unlikes, by)
            if scope.index.code and len(vectors) > 1:
                self._vector = scope.index.code.completed(self._vector)
        if scope.rerank:
            refine = scope.index.manifest.refine
            self._fine_likes = np.array([item.fine for item in likes])
            self._fine_unlikes = np.array([item.fine for item in unlikes])
            self.search = self._best_again if combine == "best" else self._mean_again
            if combine == "mean":
                by = refine.metric if refine else "cosine"
                self._fine = _rocchio(self._fine_likes, self._fine_unlikes, by)
        else:
            self.search = self._best if combine == "best" else self._mean

    def _mean_vector(self, k: int | None, without: NDArray[np.int64]) -> Ranked:
        """Search for the mean of embeddings, or of values."""
        return self._scope.ranked(self._vector, k, without)

    def _mean_distance(self, k: int | None, without: NDArray[np.int64]) -> Ranked:
        """Search for the codes with the least mean distance; that to a single one is its own."""
        if len(self._likes) == 1 and not len(self._unlikes):
            return self._scope.ranked(self._likes, k, without)
        likes, unlikes = len(self._likes), len(self._unlikes)
        weights, divisor = np.ones(likes, np.int64), likes
        codes = self._likes
        if unlikes:
            weights = np.repeat((2 * unlikes, -likes), (likes, unlikes))
            divisor = likes * unlikes
            codes = np.concatenate([self._likes, self._unlikes])
        return self._scope.combined(codes, weights, divisor, k, without)

    def _best(self, k: int | None, without: NDArray[np.int64]) -> Ranked:
        """Search for rows near to any example, and to none that is unlike."""
        distances, rows = self._nearest(k, without)
        ended = k is None or len(rows) < k
        if len(self._unlikes) and len(rows):
            others = self._scope.index.measure(self._unlikes, rows).min(axis=0)
            distances, rows = self._without_nearer(distances, rows, others)
        return distances, rows, ended

    def _nearest(self, k: int | None, without: NDArray[np.int64]) -> Found:
        """Search for rows near to any example that is like: the k nearest are among the k nearest to each."""
        found = self._scope.nearest(self._likes, k, [without] * len(self._likes), more=True)
        distances, rows = (np.concatenate(each) for each in zip(*found, strict=True))
        distances, rows = ranked(distances, rows)
        _, firsts = np.unique(rows, return_index=True)
        order = np.sort(firsts)[:k]
        return distances[order], rows[order]

    def _without_nearer(
        self, distances: NDArray[np.float64], rows: NDArray[np.int64], others: NDArray[np.float64]
    ) -> Found:
        """Leave out rows that are nearer to what they are to be unlike."""
        rejected = others < distances
        self.rejected |= bool(rejected.any())
        return distances[~rejected], rows[~rejected]

    def _mean_again(self, _k: int | None, without: NDArray[np.int64]) -> Ranked:
        """Rank the rows nearest to the mean, or with the least mean distances, again, by the distance to the mean."""
        rows = np.sort(self._mean(self._scope.rerank, without)[1][: self._scope.rerank])
        self.shortlisted = len(rows)
        return *ranked(self._scope.index.remeasure(self._fine[0], rows), rows, self._radius), True

    def _best_again(self, _k: int | None, without: NDArray[np.int64]) -> Ranked:
        """Rank rows near to any example again."""
        rows = np.sort(self._nearest(self._scope.rerank, without)[1])
        self.shortlisted = len(rows)
        remeasure = self._scope.index.remeasure
        distances = np.min([remeasure(one, rows) for one in self._fine_likes], axis=0)
        if len(self._fine_unlikes):
            others = np.min([remeasure(one, rows) for one in self._fine_unlikes], axis=0)
            distances, rows = self._without_nearer(distances, rows, others)
        return *ranked(distances, rows, self._radius), True


def _rocchio(likes: NDArray[np.float32], unlikes: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """Return the embedding (1, dim) to search for; that of a single one is its own."""
    if len(likes) == 1 and not len(unlikes):
        return likes
    examples = np.concatenate([likes, unlikes.reshape(-1, likes.shape[1])]).astype(np.float64)
    norms = np.linalg.norm(examples, axis=1, keepdims=True)
    if metric == "cosine":
        examples /= np.where(norms > 0, norms, 1)
        norms = np.minimum(norms, 1)
    wanted = examples[: len(likes)].mean(axis=0)
    if len(unlikes):
        wanted = 2 * wanted - examples[len(likes) :].mean(axis=0)
    length = np.linalg.norm(wanted)
    if metric in ("cosine", "dot") and length <= CANCELLED * norms.max():
        raise RsrError("the examples cancel each other out: their mean has no direction", remedy="other-examples")
    if length > MAX_NORM:
        raise RsrError(f"the mean of the examples is {length:.1e} long, too long for float32")
    return wanted.astype(np.float32)[None]


def _name(likes: Sequence[Item], unlikes: Sequence[Item]) -> Any:
    """Return the id of a query of examples; of a single one as it is written."""
    if len(likes) == 1 and not unlikes:
        return likes[0].record["id"]
    name = "+".join(id_of(item.record) for item in likes) + "".join(f"-{id_of(item.record)}" for item in unlikes)
    if len(name) <= NAME_LETTERS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: NAME_LETTERS - len(digest) - 3]}...{digest}"


def _common_labels(items: Sequence[Item]) -> list[str] | None:
    """Return the labels that all have, None if there are none."""
    first, *others = [label_list(item.record) or [] for item in items]
    return [label for label in first if all(label in labels for labels in others)] or None
