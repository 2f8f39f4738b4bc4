"""Random convolutional features: against torchgeo's, by hand, and on real imagery."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rsr_cli.core.encoders.rcf import BIAS, CORRELATION, KERNEL_PX, RandomFeatures, draw_filters
from rsr_cli.core.encoders.registry import load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.encoders.statistics import PRITHVI_BANDS, PRITHVI_V1
from rsr_cli.core.errors import UsageError

SENTINEL2 = (
    *("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078"),
    *("nir", "nir08", "nir09", "swir16", "swir22"),
)


def rcf(**settings):
    return load_encoder(EncoderSettings("rcf", **settings))


def encode(encoder, pixels, valid=None):
    pixels = torch.tensor(pixels, dtype=encoder.module.filters.dtype)
    valid = torch.ones_like(pixels[:, 0]) if valid is None else torch.tensor(valid)
    with torch.inference_mode():
        return encoder.forward(pixels, valid.float()).numpy()


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# --- the formula ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (7, 5), (1, 1)])
def test_torchgeo_s_features(size):
    """Its features for the same filters are the halves, positive and computed only inside the borders."""
    torchgeo = pytest.importorskip("torchgeo.models.rcf")
    encoder = rcf(seed=3)
    filters = encoder.module.double().filters  # near zero, a square root magnifies what float32 rounds
    oracle = torchgeo.RCF(len(encoder.bands), 2 * len(filters), KERNEL_PX, BIAS)
    oracle.double().weights = filters
    pixels = normal(4, len(encoder.bands), *size)
    continued = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    halves = oracle(torch.tensor(continued)).numpy()
    assert (halves >= 0).all()
    strengths = np.sqrt(halves[:, : len(filters)]) + np.sqrt(halves[:, len(filters) :])
    following = [[(k + step) % len(filters) for k in range(len(filters))] for step in (1, 2)]
    expected = np.hstack([strengths - strengths[:, others] for others in following])
    np.testing.assert_allclose(encode(encoder, pixels), expected, atol=1e-5)


@pytest.mark.parametrize("hole", ["half", "wedge", "specks"])
def test_a_tile_with_a_hole_is_averaged_where_the_whole_kernel_is_valid(hole):
    """Against scipy's correlation; what stands in the hole is of no importance."""
    ndimage = pytest.importorskip("scipy.ndimage")
    encoder = rcf(bands=("red", "nir08"), seed=5)
    encoder.module.double()
    pixels = normal(1, 2, 24, 20)
    rows, columns = np.mgrid[:24, :20]
    valid = {"half": columns < 9, "wedge": rows + 2 * columns > 30, "specks": (rows % 2 + columns % 2) > 0}[hole]
    inner = ndimage.binary_erosion(valid, np.ones((3, 3)), border_value=1)
    assert inner.any() == (hole != "specks")
    counted = inner if inner.any() else valid
    strengths = []
    for kernel in encoder.module.filters.numpy().astype(float):
        maps = sum(ndimage.correlate(band, w, mode="nearest") for band, w in zip(pixels[0], kernel, strict=True)) - 1
        strengths.append(np.sqrt(np.maximum(maps, 0)[counted].mean()) + np.sqrt(np.maximum(-maps, 0)[counted].mean()))
    expected = np.hstack([strengths - np.roll(strengths, -step) for step in (1, 2)])
    np.testing.assert_allclose(encode(encoder, pixels, valid[None])[0], expected, atol=1e-4)
    if inner.any():
        other = np.where(valid, pixels, 100)
        np.testing.assert_allclose(encode(encoder, other, valid[None]), encode(encoder, pixels, valid[None]), atol=1e-5)


def test_a_hole_does_not_change_the_other_tiles_of_a_batch():
    encoder, pixels, valid = rcf(), normal(3, 6, 16, 16), np.ones((3, 16, 16))
    alone = encode(encoder, pixels)
    valid[1, :8] = 0
    np.testing.assert_array_equal(encode(encoder, pixels, valid)[[0, 2]], alone[[0, 2]])


def test_by_hand():
    centre, left, upper = np.zeros((3, 1, 3, 3))
    centre[0, 1, 1], left[0, 1, 0], upper[0, 0, 1] = 2, 1, 1
    features = RandomFeatures(torch.tensor(np.stack([centre, left, upper]), dtype=torch.float32))
    # One row of two pixels, 0 and 5. Less the bias, the filters return (-1, 9), (-1, -1) and (-1, 4): above zero on
    # average 4.5, 0 and 2, below it 0.5, 1 and 0.5.
    strengths = np.sqrt([4.5, 0, 2]) + np.sqrt([0.5, 1, 0.5])
    first, second, third = strengths
    expected = [first - second, second - third, third - first, first - third, second - first, third - second]
    np.testing.assert_allclose(
        features(torch.tensor([[[[0.0, 5.0]]]]), torch.ones(1, 1, 2)).numpy(), [expected], rtol=1e-6
    )


def test_filters_are_white_for_markov_images():
    """The mean square response to a patch is then chi-squared: as many degrees of freedom as pixels.

    Plain noise would have the same mean, and seven times the variance.
    """
    patches = normal(5000, KERNEL_PX, KERNEL_PX)
    for i in range(1, KERNEL_PX):
        patches[:, i] = CORRELATION * patches[:, i - 1] + np.sqrt(1 - CORRELATION**2) * patches[:, i]
    for i in range(1, KERNEL_PX):
        patches[:, :, i] = CORRELATION * patches[:, :, i - 1] + np.sqrt(1 - CORRELATION**2) * patches[:, :, i]
    filters = np.concatenate([draw_filters(1, seed)[:, 0] for seed in range(4)])
    energy = (np.tensordot(patches, filters, ((1, 2), (1, 2))) ** 2).mean(axis=1)
    freedom = KERNEL_PX**2
    assert energy.mean() == pytest.approx(freedom, rel=0.1)
    assert energy.var() == pytest.approx(2 * freedom, rel=0.2)


# --- properties -----------------------------------------------------------------------------------------------------


def test_a_vector_does_not_depend_on_its_batch():
    encoder = rcf()
    pixels = normal(5, 6, 20, 31)
    together = encode(encoder, pixels)
    assert together.shape == (5, encoder.dim)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(encode(encoder, pixels[::-1].copy())[::-1], together)
    for i in range(5):
        np.testing.assert_array_equal(encode(encoder, pixels[i : i + 1])[0], together[i])


@pytest.mark.parametrize(
    "tile",
    [
        normal(6, 16, 16),
        np.full((6, 16, 16), -1.5),
        np.full((6, 1, 1), 0.1),
        3 + 0.01 * normal(6, 16, 16),
        np.broadcast_to(np.linspace(-2, 2, 16), (6, 16, 16)),
        10 * (np.indices((16, 16)).sum(axis=0) % 2) * np.arange(6).reshape(6, 1, 1),
    ],
    ids=["noise", "dark", "one pixel near the mean", "bright", "gradient", "checkerboard"],
)
def test_signs_are_balanced_whatever_the_tile(tile):
    """Each bit is balanced over many seeds, and all bits together nearly so for any seed."""
    vectors = np.stack([encode(rcf(seed=seed), tile[None])[0] for seed in range(24)])
    ones = (vectors > 0).sum(axis=0)
    assert ((ones > 1) & (ones < 23)).mean() > 0.999  # all but one of 24 fair coins agree 3 times in a million
    assert (vectors > 0).mean(axis=1) == pytest.approx(0.5, abs=0.1)
    assert (vectors > 0).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 1), (2, 65)])
@pytest.mark.parametrize("bands", [1, 6, 13])
def test_any_size_and_any_number_of_bands(size, bands):
    encoder = rcf(bands=[f"b{i}" for i in range(bands)], mean=[0.0] * bands, std=[1.0] * bands)
    vectors = encode(encoder, normal(3, bands, *size))
    assert vectors.shape == (3, encoder.dim)
    assert np.isfinite(vectors).all()
    assert (np.abs(vectors).max(axis=1) > 0).all()
    assert len(np.unique(vectors, axis=0)) == 3


def test_a_pixel_is_a_flat_field():
    encoder, pixel = rcf(), normal(1, 6, 1, 1)
    encoder.module.double()
    field = np.broadcast_to(pixel, (1, 6, 5, 7))
    np.testing.assert_allclose(encode(encoder, pixel), encode(encoder, field), atol=1e-5)


def test_a_tile_of_nothing_but_the_mean_is_finite():
    """The pipeline passes zeros for a tile whose pixels are all invalid."""
    np.testing.assert_array_equal(encode(rcf(), np.zeros((1, 6, 8, 8))), 0)


def test_the_seed_decides():
    pixels = normal(2, 6, 16, 16)
    first = rcf(seed=7)
    torch.manual_seed(1)
    again, other = rcf(seed=7), rcf(seed=8)
    np.testing.assert_array_equal(encode(first, pixels), encode(again, pixels))
    assert first.space().fingerprint == again.space().fingerprint
    assert not np.isclose(encode(first, pixels), encode(other, pixels), atol=1e-3).mean() > 0.1
    assert first.facts != other.facts
    assert first.space().fingerprint != other.space().fingerprint


def test_the_fingerprint_depends_on_what_is_read():
    six = ("blue", "green", "red", "nir08", "swir16", "swir22")
    of = {"mean": range(6), "std": range(1, 7)}
    different = [{}, {"bands": six[::-1]}, {"size_px": 32}, of, {"bands": six[::-1], **of}]
    assert len({rcf(**settings).space().fingerprint for settings in different}) == len(different)
    assert rcf(bands=six).space().fingerprint == rcf().space().fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_keep_the_signs(dtype):
    encoder = rcf()
    pixels = normal(4, 6, 32, 32)
    exact = encode(encoder, pixels)
    encoder.module.to(dtype=dtype)
    vectors = encode(encoder, pixels)
    assert vectors.dtype == np.float32
    assert ((vectors > 0) == (exact > 0)).mean() > 0.98


# --- settings ----------------------------------------------------------------------------------------------------


def test_prithvi_s_bands_are_the_default():
    encoder = rcf()
    assert (encoder.name, encoder.size_px, encoder.dim) == ("rcf", None, 768)
    assert (encoder.bands, encoder.mean, encoder.std) == (PRITHVI_BANDS, PRITHVI_V1.mean, PRITHVI_V1.std)
    assert rcf(size_px=32).size_px == 32


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": "x.pt"}, "takes no weights"),
        ({"pool": "mean"}, "takes no pool"),
        ({"layer": 0}, "takes no layer"),
        ({"mean": [0] * 6}, "mean and std together"),
        ({"std": [1] * 6}, "mean and std together"),
        ({"mean": [0] * 5, "std": [1] * 6}, "reads 6 bands, but mean has 5 values"),
        ({"bands": ["red"], "mean": [0], "std": [1, 1]}, "reads 1 band, but std has 2 values"),
        ({"bands": ["red"], "mean": [0], "std": [0]}, "std positive"),
        ({"bands": ["red"], "mean": [float("nan")], "std": [1]}, "finite"),
        ({"bands": ["red", "cirrus", "lwir11"]}, "no statistics of cirrus, lwir11"),
    ],
)
def test_settings_that_do_not_fit(settings, says):
    with pytest.raises(UsageError, match=says):
        rcf(**settings)


# --- real imagery ----------------------------------------------------------------------------------------------------


def normalised(encoder, pixels):
    mean, std = (np.array(values)[:, None, None] for values in (encoder.mean, encoder.std))
    return (pixels - mean) / std


def mean_average_precision(vectors, labels, k=20):
    """The paper's: over the hits among the first k, by L1 distance and then by row; each queries all the others."""
    distances = torch.cdist(torch.tensor(vectors, dtype=torch.float64), torch.tensor(vectors, dtype=torch.float64), p=1)
    scores = []
    for query, row in enumerate(distances.numpy()):
        ranked = [other for other in np.argsort(row, kind="stable") if other != query][:k]
        found, precisions = 0, []
        for rank, other in enumerate(ranked, start=1):
            if labels[other] == labels[query]:
                found += 1
                precisions.append(found / rank)
        scores.append(np.mean(precisions) if precisions else 0.0)
    return np.mean(scores)


def test_it_finds_classes_of_eurosat(shared_data):
    """Embeddings and their signs; L1 of bits is Hamming's distance."""
    import rasterio

    paths = sorted((shared_data / "eurosat_ms").glob("*/*.tif"))
    encoder = rcf()
    chips = []
    for path in paths:
        with rasterio.open(path) as dataset:
            chips.append(dataset.read([2, 3, 4, 13, 11, 12]))  # B8A is EuroSAT's last
    vectors = encode(encoder, normalised(encoder, np.stack(chips)))
    labels = [path.parent.name for path in paths]
    assert len(vectors) == 270
    assert mean_average_precision(vectors, labels) >= 0.56
    assert mean_average_precision(vectors > 0, labels) >= 0.55


def test_twelve_bands_of_terramind(shared_data):
    import rasterio

    encoder = rcf(bands=SENTINEL2)
    vectors = []
    for path in sorted((shared_data / "terramind" / "S2L2A").glob("*.tif")):
        with rasterio.open(path) as dataset:
            vectors.append(encode(encoder, normalised(encoder, dataset.read()[None]))[0])
    vectors = np.stack(vectors)
    assert vectors.shape == (5, encoder.dim)
    assert np.isfinite(vectors).all()
    bits = vectors > 0
    apart = (bits[:, None] != bits).mean(axis=2)[np.triu_indices(5, 1)]
    assert (apart > 0.05).all()
