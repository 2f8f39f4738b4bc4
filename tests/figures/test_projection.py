"""t-SNE of samples of vectors."""

import numpy as np
import pytest
import support
from scipy.spatial.distance import cdist
from support import code, embedding, feature

from rsr_cli.core.errors import RsrError, Skips
from rsr_cli.core.figures.projection import project


def batches(vectors, labels=None):
    names = labels or [None] * len(vectors)
    records = [feature(i, embedding=embedding(v), labels=names[i]) for i, v in enumerate(vectors)]
    return support.batches(records, size=64)


def coded(bits):
    packed = np.packbits(bits, axis=1)
    (batch,) = support.batches(feature(i, code=code(row, bits.shape[1])) for i, row in enumerate(packed))
    return batch


def test_clusters_come_apart():
    random = np.random.default_rng(0)
    classes = np.arange(90) % 3
    vectors = (random.standard_normal((90, 32)) + 8 * np.eye(32)[classes]).astype(np.float32)
    points = project(batches(vectors, [[f"c{number}", "x"] for number in classes]), 1000, 0, Skips())
    assert [labels[0] for labels in points.labels] == [f"c{number}" for number in classes]
    distances = cdist(points.places, points.places)
    np.fill_diagonal(distances, np.inf)
    assert (classes[distances.argmin(1)] == classes).all()


def test_codes_are_compared_by_hamming_distance():
    from sklearn.manifold import TSNE

    random = np.random.default_rng(1)
    classes = np.arange(60) % 3
    bits = random.integers(0, 2, (3, 45), dtype=np.uint8)[classes]  # 45: not whole bytes
    bits ^= random.random(bits.shape) < 0.1
    found = project([coded(bits)], 1000, 5, Skips()).places
    layouts = {
        metric: TSNE(metric=metric, random_state=5, perplexity=59 / 3).fit_transform(bits.astype(np.float32))
        for metric in ("hamming", "euclidean")
    }
    np.testing.assert_array_equal(found, layouts["hamming"])
    assert not np.allclose(found, layouts["euclidean"])
    distances = cdist(found, found)
    np.fill_diagonal(distances, np.inf)
    assert (classes[distances.argmin(1)] == classes).all()


def test_every_record_can_be_sampled():
    vectors = np.random.default_rng(2).standard_normal((2000, 2)).astype(np.float32)
    names = [[str(number)] for number in range(2000)]
    drawn = [int(labels[0]) for labels in project(batches(vectors, names), 60, 3, Skips()).labels]
    assert len(set(drawn)) == 60
    assert 700 < np.mean(drawn) < 1300
    again = [int(labels[0]) for labels in project(batches(vectors, names), 60, 4, Skips()).labels]
    assert drawn != again


@pytest.mark.parametrize(
    ("vectors", "message"),
    [(np.eye(2), "needs 3 records or more, and 2 came in"), (np.ones((5, 4)), "of all 5 records are the same")],
)
def test_too_few_or_equal_vectors_are_refused(vectors, message):
    with pytest.raises(RsrError, match=message):
        project(batches(vectors.astype(np.float32)), 100, 0, Skips())


@pytest.mark.parametrize("scale", [3e38, 1e20, 1e-20, 1e-44])
def test_embeddings_of_any_length_are_laid_out_alike(scale):
    drawn = np.sign(np.random.default_rng(0).standard_normal((30, 8)))
    found = project(batches((drawn * scale).astype(np.float32)), 100, 0, Skips())
    np.testing.assert_array_equal(found.places, project(batches(drawn.astype(np.float32)), 100, 0, Skips()).places)


@pytest.mark.parametrize("shape", [(3, 8), (5, 1), (4, 2)])
def test_very_few_records(shape):
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert np.isfinite(project(batches(vectors), 100, 0, Skips()).places).all()
