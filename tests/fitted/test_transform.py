"""Transforms against scikit-learn, faiss and a few lines of numpy."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from sklearn.decomposition import PCA

from rsr_cli.core.errors import FingerprintError, RsrError, UsageError
from rsr_cli.core.fitted.learn import fit, learn
from rsr_cli.core.fitted.registry import FIT_METHODS
from rsr_cli.core.fitted.sample import Reservoir
from rsr_cli.core.fitted.state import Fitted
from rsr_cli.core.fitted.transform import Transform
from rsr_cli.core.records.batch import Batch
from rsr_cli.core.records.space import Space

SIZES = {name: 5 if method.size else None for name, method in FIT_METHODS.items() if not method.is_code}


@pytest.fixture(scope="module")
def sample():
    """Embeddings, float32 (400, 12), that vary more in some directions, around a centre."""
    random = np.random.default_rng(1)
    mixed = random.standard_normal((12, 12)) * np.geomspace(3, 0.1, 12)
    return (random.standard_normal((400, 12)) @ mixed.T + random.standard_normal(12) * 2).astype(np.float32)


def of_unit_length(values):
    norms = np.sqrt((values.astype(float) ** 2).sum(axis=1))
    return values.astype(float) / np.where(norms, norms, 1)[:, None]


def space(dim, **facts):
    return Space("embedding", dim, "float32", f"emb{dim}", {"model": "rcf", **facts})


def transform(sample, method, size=None, seed=0):
    size = size or SIZES[method]
    arrays = learn(method, sample, size, seed)
    return Transform(Fitted.make(method, space(sample.shape[1]), arrays, {"seed": seed}))


def test_the_mean_and_the_median_centre(sample):
    unit = of_unit_length(sample)
    assert np.allclose(transform(sample, "mean")(sample), unit - unit.mean(axis=0), atol=1e-6)
    found = transform(sample, "median")(sample)
    assert np.allclose(found, unit - np.median(unit, axis=0), atol=1e-6)
    assert (np.abs((found > 0).mean(axis=0) - 0.5) < 0.01).all()


@pytest.mark.parametrize(("method", "whiten"), [("pca", False), ("whiten", True)])
@pytest.mark.parametrize("size", [1, 5, 11])
def test_principal_components_are_those_of_scikit_learn(sample, method, whiten, size):
    oracle = PCA(size, whiten=whiten, svd_solver="full").fit(of_unit_length(sample))
    wanted, found = oracle.transform(of_unit_length(sample)), transform(sample, method, size)(sample)
    signs = np.sign((wanted * found).sum(axis=0))
    assert np.allclose(found, wanted * signs, atol=1e-4)


def test_whitened_dimensions_vary_alike_and_independently(sample):
    found = transform(sample, "whiten", 8)(sample)
    assert np.allclose(np.cov(found.T), np.eye(8), atol=1e-4)


def loss(points):
    return np.square(points - np.sign(points)).sum()


def test_itq_turns_principal_components_so_that_signs_lose_less(sample):
    pca, itq = (transform(sample, method, 6) for method in ("pca", "itq"))
    own, other = itq.fitted.arrays["directions"], pca.fitted.arrays["directions"]
    assert np.allclose(own @ own.T, np.eye(6), atol=1e-5)
    assert np.allclose(np.linalg.svd(own @ other.T)[1], 1, atol=1e-5)  # the same plane
    points, turned = pca(sample), itq(sample)
    assert loss(turned) < loss(points)
    oracle = faiss.ITQMatrix(6)
    oracle.train(points)
    assert loss(turned) < 1.02 * loss(oracle.apply(points))
    again = transform(sample, "itq", 6, seed=1)
    assert not np.allclose(again.fitted.arrays["directions"], own)


@pytest.mark.parametrize("method", SIZES)
def test_vectors_are_transformed_alike_whatever_their_length_and_batch(sample, method):
    made = transform(sample, method)
    whole = made(sample)
    assert whole.dtype == np.float32
    assert whole.shape == (len(sample), made.dim)
    assert np.allclose(whole, np.concatenate([made(sample[:1]), made(sample[1:7]), made(sample[7:])]), atol=1e-6)
    assert np.allclose(whole, made(sample * np.float32(2.0**-100)), atol=1e-6)
    assert np.isfinite(made(np.zeros((1, 12), np.float32))).all()
    assert np.isfinite(made(np.full((1, 12), np.finfo(np.float32).max, np.float32))).all()


@pytest.mark.parametrize("method", ["pca", "whiten", "itq"])
def test_a_sample_that_does_not_vary_enough_is_refused(sample, method):
    degenerate = {
        "one row": (sample[:1], 0),
        "rows alike": (np.repeat(sample[:1], 50, axis=0), 0),
        "zeros": (np.zeros((9, 12), np.float32), 0),
        "three rows": (sample[:3], 2),
        "constant dimensions": (np.pad(sample[:, :4], ((0, 0), (0, 8))), 4),
    }
    for values, directions in degenerate.values():
        with pytest.raises(UsageError, match=f"varies in {directions} directions, fewer than 5"):
            learn(method, values, 5, 0)
        if directions:
            assert np.isfinite(transform(values, method, directions)(values)).all()


def test_the_space_is_known_by_the_file_and_by_what_it_was_made_of(sample):
    made = transform(sample, "whiten")
    stated = made.space.facts
    assert stated["model"] == "rcf"
    assert stated["transform"] == {"method": "whiten", "fit": made.fitted.digest[:16], "of": "emb12"}
    assert (made.space.size, made.space.of_model().fingerprint) == (5, "emb12")
    others = [transform(sample, "pca"), transform(sample, "whiten", 6), transform(sample[1:], "whiten")]
    assert len({each.space.fingerprint for each in [made, *others]}) == 4
    assert transform(sample, "whiten").space == made.space


def test_embeddings_of_another_space_are_refused(sample):
    made = transform(sample, "mean")
    with pytest.raises(FingerprintError, match="fingerprint emb12, not emb11"):
        made.space_of(space(11))
    with pytest.raises(UsageError, match="transformed already"):
        Transform(Fitted.make("mean", made.space, made.fitted.arrays, {}))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"centre": np.zeros(11, np.float32)},
        {"centre": np.zeros((1, 12), np.float32)},
        {"centre": np.zeros(12, np.float32), "directions": np.zeros((0, 12), np.float32)},
        {"centre": np.zeros(12, np.float32), "directions": np.zeros((12, 5), np.float32)},
        {"directions": np.zeros((5, 12), np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays):
    with pytest.raises(RsrError, match="no transform of 12 dimensions"):
        Transform(Fitted.make("mean", space(12), arrays, {}))


def test_the_file_is_that_of_the_sample(sample):
    def drawn(cut):
        reservoir = Reservoir(100, 3)
        for some in (sample[:cut], sample[cut:]):
            records = [{} for _ in some]
            list(reservoir.fill([Batch("here", range(len(some)), records, some, space(12))]))
        return fit("itq", reservoir, 5, 3)

    made = drawn(7)
    assert made.data == drawn(200).data
    assert made.settings == {"seed": 3, "sample": 100}
