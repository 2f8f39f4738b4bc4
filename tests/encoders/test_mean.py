"""Rasters of embeddings: each published layout in miniature, read by the real commands, against its own formula."""

import base64
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from support import needs_torch
from support_rasters import messages, records

UTM = rasterio.Affine(10, 0, 500000, 0, -10, 5300000)
BOTTOM_UP = rasterio.Affine(10, 0, 500000, 0, 10, 5300000)
COG = "annual/2023/32N/xjejfvrbm1fbu1ecw-0000000000-0000008192.tiff"
A00_TO_A63 = [f"A{number:02}" for number in range(64)]


def features(done):
    """Return the records that ``rsr embed`` wrote."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def fields(height, width, dim, seed=0):
    """Return float64 (height, width, dim) of unit length, alike within fields of 7 x 9 pixels."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    means = draw.normal(size=(5, dim))[(rows // 7 + columns // 9) % 5]
    noisy = means + 0.3 * draw.normal(size=(height, width, dim))
    return noisy / np.linalg.norm(noisy, axis=2, keepdims=True)


def quantized(values):
    """Return AlphaEarth's integers v of values sign(v) * (v / 127.5)^2."""
    return np.rint(np.sign(values) * np.sqrt(np.abs(values)) * 127.5).astype("int8")


def alphaearth(path, write_raster, stored, names=A00_TO_A63, **profile):
    """Write int8 (height, width, 64) as Google's COGs are, their first row in the south."""
    profile = {"crs": "EPSG:32632", "transform": BOTTOM_UP, "nodata": -128, "names": names} | profile
    return write_raster(path, stored.transpose(2, 0, 1), **profile)


def geotessera(root, stored, scales, write_raster, *, mask=True):
    """Write a tile as GeoTessera downloads it."""
    directory = root / "global_0.1_degree_representation" / "2024" / "grid_0.15_52.05"
    directory.mkdir(parents=True)
    np.save(directory / "grid_0.15_52.05.npy", stored)
    if scales is not None:
        np.save(directory / "grid_0.15_52.05_scales.npy", scales.astype("float32"))
    if mask:
        land = root / "global_0.1_degree_tiff_all" / "grid_0.15_52.05.tiff"
        write_raster(land, np.ones(stored.shape[:2], "uint8"), crs="EPSG:32631", transform=UTM)
    return directory / "grid_0.15_52.05.npy"


@pytest.fixture
def embedded(rsr):
    """Return a function that runs ``rsr tile | rsr embed --model mean``: the records, and float32 (n, dim)."""

    def run(*arguments, embed=()):
        tiled = rsr("tile", *arguments)
        assert tiled.returncode == 0, tiled.stderr
        done = rsr("embed", "--model", "mean", *embed, input=tiled.stdout)
        assert done.returncode == 0, done.stderr
        found = features(done)
        data = (base64.b64decode(record["properties"]["embedding"]["data"]) for record in found)
        return found, np.array([np.frombuffer(part, "<f4") for part in data])

    return run


def tile_of(record, stored):
    """Return the pixels (n, dim) of a record's window of (height, width, dim)."""
    left, top, width, height = record["properties"]["window"]
    return stored[top : top + height, left : left + width].reshape(-1, stored.shape[2])


def test_alphaearth_s_cogs(tmp_path, write_raster, embedded):
    stored = quantized(fields(48, 64, 64))
    stored[:16, :16] = -128
    stored[20, 40] = -128
    path = alphaearth(tmp_path / COG, write_raster, stored)
    found, means = embedded(path, "--sensor", "alphaearth", "--size", 16)
    assert len(found) == 11  # the first tile has no valid pixel
    to_map = Transformer.from_crs("OGC:CRS84", "EPSG:32632", always_xy=True)
    for record, mean in zip(found, means, strict=True):
        pixels = tile_of(record, stored).astype(float)
        valid = pixels[(pixels != -128).all(axis=1)]
        expected = (np.sign(valid) * (valid / 127.5) ** 2).mean(axis=0)
        np.testing.assert_allclose(mean, expected / np.linalg.norm(expected), atol=1e-6)
        properties = record["properties"]
        assert properties["valid"] == pytest.approx(len(valid) / 256, abs=1e-4)
        facts = {"bands": ["A00..A63"], "decode": {"power": 2}, "space": "alphaearth", "offset": 0, "datetime": None}
        assert {name: properties[name] for name in facts} == facts
        period = properties["start_datetime"], properties["end_datetime"]
        assert period == ("2023-01-01T00:00:00Z", "2023-12-31T23:59:59Z")
        ring = np.array(record["geometry"]["coordinates"][0])
        _, top, _, height = properties["window"]
        north = to_map.transform(*ring.T)[1]
        assert min(north) == pytest.approx(5300000 + 10 * top, abs=0.1)
        assert max(north) == pytest.approx(5300000 + 10 * (top + height), abs=0.1)
        assert np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]) > 0  # counterclockwise, as in RFC 7946


def test_alphaearth_of_earth_engine(tmp_path, write_raster, embedded):
    """Its exports contain components, in the file's order, and NaN where masked."""
    values = fields(32, 32, 64)
    values[:4] = np.nan
    order = np.random.default_rng(1).permutation(64)
    names = [A00_TO_A63[i] for i in order]
    pixels = values[..., order].transpose(2, 0, 1).astype("float32")
    path = write_raster(tmp_path / "export.tif", pixels, names=names)
    ((record,), (mean,)) = embedded(path, "--sensor", "alphaearth", "--whole")
    expected = np.nanmean(values.reshape(-1, 64), axis=0)
    np.testing.assert_allclose(mean, expected / np.linalg.norm(expected), atol=1e-6)
    assert "decode" not in record["properties"]
    assert record["properties"]["valid"] == 0.875


def test_a_directory_as_source_cooperative_has_it(tmp_path, write_raster, rsr):
    """A VRT is beside each COG."""
    path = alphaearth(tmp_path / COG, write_raster, quantized(fields(16, 16, 64)))
    rasterio.shutil.copy(path, path.replace(".tiff", ".vrt"), driver="VRT")
    (record,) = records(rsr("tile", tmp_path, "--sensor", "alphaearth", "--size", 16))
    assert record["properties"]["source"] == path


@pytest.mark.parametrize("per_band", [False, True], ids=["(height, width)", "(height, width, 128)"])
def test_geotessera_s_arrays(tmp_path, write_raster, embedded, per_band):
    draw = np.random.default_rng(2)
    stored = draw.integers(-127, 128, (40, 50, 128)).astype("int8")
    scales = draw.uniform(0.01, 0.1, stored.shape if per_band else stored.shape[:2])
    scales[:3, :5] = np.nan
    geotessera(tmp_path, stored, scales, write_raster)
    found, means = embedded(tmp_path, "--sensor", "geotessera", "--size", 20, "--edge", "pad")
    assert len(found) == 6
    values = stored.astype("float32") * scales.astype("float32").reshape(40, 50, -1)
    for record, mean in zip(found, means, strict=True):
        np.testing.assert_allclose(mean, np.nanmean(tile_of(record, values), axis=0, dtype=float), atol=1e-6)
    assert found[0]["properties"]["valid"] == pytest.approx(1 - 15 / 400, abs=1e-4)
    assert found[0]["properties"]["start_datetime"] == "2024-01-01T00:00:00Z"
    west, south, *_ = found[0]["bbox"]
    x, y = Transformer.from_crs("OGC:CRS84", "EPSG:32631", always_xy=True).transform(west, south)
    assert (x, y) == pytest.approx((500000, 5300000 - 200), abs=5)


def test_geotessera_s_geotiffs(tmp_path, write_raster, embedded):
    """They contain components, beside nothing else."""
    values = fields(20, 20, 128).astype("float32")
    names = [f"Tessera_Band_{number}" for number in range(128)]
    write_raster(tmp_path / "grid_0.15_52.05_2024.tiff", values.transpose(2, 0, 1), names=names)
    ((record,), (mean,)) = embedded(tmp_path, "--sensor", "geotessera", "--size", 20)
    np.testing.assert_allclose(mean, values.reshape(-1, 128).mean(axis=0, dtype=float), atol=1e-6)
    assert record["properties"]["end_datetime"] == "2024-12-31T23:59:59Z"


def test_arrays_and_geotiffs_of_geotessera_are_in_one_space(tmp_path, write_raster, embedded, rsr):
    stored = np.random.default_rng(2).integers(-127, 128, (20, 20, 128)).astype("int8")
    array = geotessera(tmp_path / "npy", stored, np.full((20, 20), 0.5), write_raster)
    image = write_raster(tmp_path / "grid_0.15_52.05_2024.tiff", stored.transpose(2, 0, 1).astype("float32") / 2)
    found, means = embedded(array, image, "--sensor", "geotessera", "--whole")
    np.testing.assert_array_equal(means[0], means[1])
    assert len({record["properties"]["embedding"]["fingerprint"] for record in found}) == 1


@pytest.mark.parametrize(("size", "dim"), [("nano", 128), ("tiny", 192), ("base", 768), ("large", 1024)])
def test_olmoearth(tmp_path, write_raster, embedded, size, dim):
    values = fields(6, 6, dim).astype("float32")
    path = write_raster(tmp_path / "layer.tif", values.transpose(2, 0, 1))
    ((record,), (mean,)) = embedded(path, "--sensor", f"olmoearth-{size}", "--whole")
    np.testing.assert_allclose(mean, values.reshape(-1, dim).mean(axis=0, dtype=float), atol=1e-6)
    assert record["properties"]["embedding"]["model"] == f"mean:space=olmoearth-{size}"


def test_copernicus_embed(tmp_path, write_raster, embedded):
    """Its first row of pixels has its centres at the pole; the ocean is 0."""
    values = fields(8, 12, 768).astype("float32")
    values[:, :4] = 0
    quarter = rasterio.Affine(0.25, 0, -180.125, 0, -0.25, 90.125)
    path = write_raster(tmp_path / "map.tif", values.transpose(2, 0, 1), crs="EPSG:4326", transform=quarter)
    found, means = embedded(path, "--sensor", "copernicus-embed", "--size", 4)
    assert [record["properties"]["window"] for record in found] == [[c, r, 4, 4] for r in (0, 4) for c in (4, 8)]
    for record, mean in zip(found, means, strict=True):
        np.testing.assert_allclose(mean, tile_of(record, values).mean(axis=0, dtype=float), atol=1e-6)
    assert found[0]["bbox"] == pytest.approx([-179.125, 89.125, -178.125, 90])
    assert found[2]["bbox"] == pytest.approx([-179.125, 88.125, -178.125, 89.125])


@needs_torch
def test_terratorch_s_geotiffs(tmp_path, embedded, rsr):
    """Written by terratorch itself: patches of a transformer, in the place of the image."""
    from terratorch.tasks.embedding_generation import EmbeddingGenerationTask

    values = fields(14, 14, 192).astype("float32")
    place = {"crs": "EPSG:32632", "geotransform": [500000, 10, 0, 5300000, 0, -10], "raster_shape": [224, 224]}
    EmbeddingGenerationTask.write_tiff(SimpleNamespace(), values.transpose(2, 0, 1), "scene.tif", place, tmp_path)
    path = tmp_path / "scene_embedding.tif"
    tiled = rsr("tile", path, "--bands", "e0..e191", "--size", 7)
    assert [record["properties"]["gsd"] for record in features(tiled)] == [160] * 4
    refused = rsr("embed", "--model", "mean", input=tiled.stdout)
    assert refused.returncode == 1
    assert messages(refused) == [
        "rsr embed: <stdin>:1: does not state the vector space of its pixels; pass --sensor to rsr tile if it is a"
        " product's, else --space NAME, the model that made them"
    ]
    found, means = embedded(path, "--bands", "e0..e191", "--size", 7, embed=("--space", "prithvi-tiny"))
    for record, mean in zip(found, means, strict=True):
        np.testing.assert_allclose(mean, tile_of(record, values).mean(axis=0, dtype=float), atol=1e-6)
    assert found[0]["properties"]["embedding"]["model"] == "mean:space=prithvi-tiny"


def test_an_archive_without_a_model(tmp_path, write_raster, rsr):
    """From COGs to hits: neighbours in a field find each other, and ``--as`` embeds as the index was made."""
    stored = quantized(np.repeat(np.repeat(fields(4, 4, 64), 8, axis=0), 8, axis=1))
    path = alphaearth(tmp_path / COG, write_raster, stored)
    tiles, lake, codes = (tmp_path / name for name in ("t.geojsonl", "e.rsr", "c.rsr"))
    assert rsr("tile", path, "--sensor", "alphaearth", "--size", 4, "-o", tiles).returncode == 0
    embedding = rsr("embed", "--model", "mean", tiles)
    assert rsr("index", "-o", lake, input=embedding.stdout).returncode == 0
    assert rsr("index", "-o", codes, input=rsr("binarize", input=embedding.stdout).stdout).returncode == 0
    for index in (lake, codes):
        again = rsr("embed", "--as", index, tiles)
        assert again.stdout == embedding.stdout, again.stderr
        hits = features(rsr("query", index, "-k", 4, input=again.stdout))
        for hit in hits:
            (query,) = (record for record in features(again) if record["id"] == hit["properties"]["query"])
            if hit["properties"]["rank"] <= 4 and index == lake:
                there, here = (record["properties"]["window"][:2] for record in (hit, query))
                assert [n // 8 for n in there] == [n // 8 for n in here]
    recipe = json.loads((lake / "manifest.json").read_text())["space"]["recipe"]
    assert recipe["space"] == "alphaearth"


def test_without_torch(tmp_path, write_raster, rsr):
    path = alphaearth(tmp_path / COG, write_raster, quantized(fields(16, 16, 64)))
    tiled = rsr("tile", path, "--sensor", "alphaearth", "--whole")
    code = "import sys; sys.modules |= dict.fromkeys(['torch', 'terratorch']); from rsr_cli.main import main; main()"
    command = [sys.executable, "-c", code, "embed", "--model", "mean"]
    done = subprocess.run(command, input=tiled.stdout, capture_output=True, check=True)
    assert done.stdout == rsr("embed", "--model", "mean", input=tiled.stdout).stdout


def test_pixels_of_two_products_are_in_two_spaces(tmp_path, write_raster, rsr):
    pixels = fields(8, 8, 128).transpose(2, 0, 1).astype("float32")
    path = write_raster(tmp_path / "x.tif", pixels)
    lines = [rsr("tile", path, "--whole", "--sensor", sensor).stdout for sensor in ("olmoearth-nano", "geotessera")]
    done = rsr("embed", "--model", "mean", input=b"".join(lines))
    spaces = [record["properties"]["embedding"]["fingerprint"] for record in features(done)]
    assert len(set(spaces)) == 2
    refused = rsr("index", "-o", tmp_path / "x.rsr", input=done.stdout)
    assert refused.returncode == 1
    assert b"space geotessera, not olmoearth-nano" in refused.stderr


def test_a_shown_tile_has_components_as_colours(tmp_path, write_raster, cut):
    from rsr_cli.core.rasters import read_pixels

    stored = quantized(fields(8, 8, 64))
    (tile,) = cut(alphaearth(tmp_path / "x.tif", write_raster, stored), sensor="alphaearth")
    read = read_pixels(tile, ["A16", "A01"])
    expected = stored[..., [16, 1]].transpose(2, 0, 1) / 127.5
    np.testing.assert_allclose(read, np.sign(expected) * expected**2, atol=1e-6)


def test_chips_of_alphaearth_are_embedded_like_their_tiles(tmp_path, write_raster, embedded):
    path = alphaearth(tmp_path / COG, write_raster, quantized(fields(32, 32, 64)))
    options = (path, "--sensor", "alphaearth", "--size", 16)
    _, means = embedded(*options)
    chips, again = embedded(*options, "--chips", tmp_path / "chips")
    np.testing.assert_array_equal(again, means)
    assert chips[0]["properties"]["bands"] == ["A00..A63"]
    with rasterio.open(chips[0]["properties"]["source"]) as chip:
        assert list(chip.descriptions) == A00_TO_A63
        assert chip.dtypes[0] == "int8"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("no scales", "grid_0.15_52.05_scales.npy: is missing, which contains the scales"),
        ("no mask", "has no place without its land mask, global_0.1_degree_tiff_all/grid_0.15_52.05.tiff"),
        ("small mask", "grid_0.15_52.05.tiff: is of 7 x 7 px, but "),
    ],
)
def test_incomplete_tiles_of_geotessera_are_refused(tmp_path, write_raster, rsr, damage, says):
    stored, scales = np.ones((8, 8, 128), "int8"), np.ones((8, 8))
    path = geotessera(
        tmp_path, stored, None if damage == "no scales" else scales, write_raster, mask=damage != "no mask"
    )
    if damage == "small mask":
        land = tmp_path / "global_0.1_degree_tiff_all" / "grid_0.15_52.05.tiff"
        write_raster(land, np.ones((7, 7), "uint8"), crs="EPSG:32631", transform=UTM)
    done = rsr("tile", path, "--sensor", "geotessera", "--whole")
    assert done.returncode == 1
    (message,) = messages(done)
    assert says in message


@pytest.mark.parametrize("shape", [(8, 8, 3), (4, 8)])
def test_scales_of_another_shape_are_refused(tmp_path, write_raster, rsr, shape):
    path = geotessera(tmp_path, np.ones((8, 8, 128), "int8"), np.ones(shape), write_raster)
    tiled = rsr("tile", path, "--sensor", "geotessera", "--size", 8, "--min-valid", 0)
    done = rsr("embed", "--model", "mean", input=tiled.stdout)
    assert done.returncode == 1
    assert "_scales.npy: has scales of" in messages(done)[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", 3], "mean takes no size"),
        (["--bands", "A00"], "mean takes no bands"),
        (["--weights", "x.pt"], "mean takes no weights"),
        (["--device", "cpu"], "mean takes no device"),
        (["--precision", "fp32"], "mean takes no precision"),
        (["--batch-size", 3], "mean takes no batch size"),
        (["--fill-missing"], "mean takes no fill missing"),
    ],
)
def test_settings_of_networks_are_refused(rsr, arguments, says):
    done = rsr("embed", "--model", "mean", *arguments, input=b"")
    assert done.returncode == 2
    assert says in messages(done)[0]


@needs_torch
def test_tiles_of_embeddings_are_not_encoded_again(tmp_path, write_raster, rsr):
    path = alphaearth(tmp_path / "x.tif", write_raster, quantized(fields(8, 8, 64)))
    tile = rsr("tile", path, "--sensor", "alphaearth", "--whole").stdout
    network = rsr("embed", "--model", "rcf", input=tile)
    assert "has pixels that are embeddings already; pass --model mean" in messages(network)[0]


def test_what_cannot_be_averaged_is_refused(tmp_path, write_raster, rsr):
    stored = quantized(fields(8, 8, 64))
    path = alphaearth(tmp_path / "x.tif", write_raster, stored)
    tile = rsr("tile", path, "--sensor", "alphaearth", "--whole").stdout
    other = rsr("embed", "--model", "mean", "--space", "other", input=tile)
    assert (other.returncode, messages(other)[0].split(": ", 2)[2]) == (
        1,
        "has pixels in the vector space alphaearth, not other",
    )
    image = write_raster(tmp_path / "red.tif", np.ones((2, 8, 8), "uint16"))
    reflectance = rsr("tile", image, "--bands", "red,nir", "--whole").stdout
    done = rsr("embed", "--model", "mean", "--space", "x", input=reflectance)
    assert "has pixels that are no embeddings: red, nir" in messages(done)[0]
    opposite = np.stack([stored[0], -stored[0]])
    path = alphaearth(tmp_path / "y.tif", write_raster, opposite)
    tile = rsr("tile", path, "--sensor", "alphaearth", "--whole").stdout
    done = rsr("embed", "--model", "mean", input=tile)
    assert "cancel each other out" in messages(done)[0]
    for bands, says in {
        ("A00..A62", "-"): "has 63 of the 64 bands of alphaearth, without A63",
        ("-",) * 64: "names no band that is used",
    }.items():
        record = json.loads(tile)
        record["properties"] |= {"bands": bands, "space": "alphaearth" if "A00..A62" in bands else "x"}
        done = rsr("embed", "--model", "mean", input=json.dumps(record).encode())
        assert says in messages(done)[0]
    record = json.loads(tile)
    record["properties"] |= {"decode": {"power": 1e308}, "scale": 1e9}
    done = rsr("embed", "--model", "mean", input=json.dumps(record).encode())
    assert "has no valid pixel" in messages(done)[0]
    for decode in (
        {"power": True},
        {"power": -1},
        {"power": "2"},
        {"scales": 3},
        {"power": 2, "scales": "x"},
        {},
        [],
        "power",
    ):
        record = json.loads(tile)
        record["properties"]["decode"] = decode
        done = rsr("embed", "--model", "mean", "--keep-going", input=json.dumps(record).encode())
        assert done.returncode == 3
        assert "is not a tile" in messages(done)[0]


def test_many_names_take_no_long_time(tmp_path, write_raster, rsr):
    write_raster(tmp_path / "a.tif", np.ones((2, 8, 8), "float32"))
    facts = {"source": f"{tmp_path}/a.tif", "window": [0, 0, 8, 8], "space": "x"}
    record = {"type": "Feature", "id": "a", "geometry": None, "properties": facts}
    facts["bands"] = [f"q{number}" for number in range(200_000)]  # looking each up among all takes minutes
    start = time.monotonic()
    done = rsr("embed", "--model", "mean", input=json.dumps(record).encode())
    assert "has 2 bands, but the record names 200000" in messages(done)[0]
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("dtype", "names", "says"),
    [
        ("uint8", A00_TO_A63, "has uint8 numbers, but alphaearth has int8 or float32 or float64"),
        ("int8", A00_TO_A63[:60], "has 60 of the 64 bands of alphaearth, without A60"),
        ("int8", None, None),
    ],
)
def test_files_that_are_not_the_product_s(tmp_path, write_raster, rsr, dtype, names, says):
    count = len(names) if names else 64
    pixels = np.ones((count, 8, 8), dtype)
    path = write_raster(tmp_path / "x.tif", pixels, names=names)
    done = rsr("tile", path, "--sensor", "alphaearth", "--whole")
    if says is None:  # Google states the order of its files
        assert records(done)[0]["properties"]["bands"] == ["A00..A63"]
    else:
        assert done.returncode == 1
        assert says in messages(done)[0]
