"""``rsr tile`` as people use it: its options, lists of files, awkward rasters, and what goes wrong."""

import collections
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp
from support import embedding, failure_in, needs_torch
from support_rasters import ONES, SPLITS, bands_of, check_record, grid, messages, records, safe

from rsr_cli.core import rasters
from rsr_cli.core.errors import RasterError

ITEMS_ON_STDIN = "- is STAC Items on stdin, which are read once, not a directory and not in a list"


def test_every_option_reaches_the_tiles(tmp_path, write_raster, cut, rsr):
    pixels = np.random.default_rng(1).integers(0, 3, (3, 40, 60)).astype("uint8")
    pixels[:, :20] = 0
    write_raster(tmp_path / "in" / "Lake" / "a.tif", pixels, nodata=0)
    write_raster(tmp_path / "in" / "b.tif", pixels, nodata=0)
    command = ["tile", "--size", 16, "--stride", 12, "--edge", "shift", "--min-valid", "0.2", "--sensor", "rgb"]
    command += ["--scale", 3, "--offset", -7, "--datetime", "2023-06-10T09:46:21+02:00", "--labels-from-parent"]
    command += ["--bands", "blue,-,green", "--id-prefix", "x/", "--chips", "chips", "-o", "out.geojsonl", "in"]
    done = rsr(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    settings = {"size": 16, "stride_px": 12, "edge": "shift", "min_valid": 0.2, "sensor": "rgb", "scale": 3.0}
    settings |= {"offset": -7.0, "datetime": "2023-06-10T07:46:21Z", "labels_from_parent": True, "id_prefix": "x/"}
    expected = cut(tmp_path / "in", bands=["blue", "-", "green"], **settings)
    written = [json.loads(line) for line in (tmp_path / "out.geojsonl").read_bytes().splitlines()]
    assert 0 < len(written) == len(expected) < 2 * 3 * 5
    assert messages(done) == [
        f"rsr tile: left out {2 * 3 * 5 - len(expected)} tiles without enough valid pixels; see --min-valid"
    ]
    for record, tile in zip(written, expected, strict=True):
        check_record(record)
        tile["properties"]["source"] = tile["properties"]["source"].removeprefix(f"{tmp_path}/")
        in_chip = {"source": f"chips/{record['id']}.tif", "window": [0, 0, 16, 16], "bands": ["blue", "green"]}
        assert record == tile | {"properties": tile["properties"] | in_chip}
        assert record["properties"]["labels"] == ["in" if "/b_" in record["id"] else "Lake"]
    before = (tmp_path / "out.geojsonl").read_bytes()
    (refused,) = messages(rsr(*command, cwd=tmp_path))
    assert refused == "rsr tile: out.geojsonl: exists already; pass --overwrite to replace it"
    (tmp_path / "out.geojsonl").rename(tmp_path / "elsewhere")
    assert f"rsr tile: chips/{written[0]['id']}.tif: exists already" in messages(rsr(*command, cwd=tmp_path))[0]
    assert rsr(*command, "--overwrite", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out.geojsonl").read_bytes() == before


def test_gdal_reads_the_stream(tmp_path, write_raster, rsr):
    pyogrio = pytest.importorskip("pyogrio")
    geopandas = pytest.importorskip("geopandas")
    write_raster(tmp_path / "over 180.tif", ONES, crs="EPSG:4326", transform=Affine(1, 0, 176, 0, -1, 4), names=["red"])
    write_raster(tmp_path / "placed.tif", ONES, names=["red"], nodata=0)
    write_raster(tmp_path / "unplaced.tif", ONES, crs=None, transform=Affine.identity(), names=["red"])
    done = rsr("tile", "--size", 8, tmp_path, "-o", tmp_path / "out.geojsonl")
    assert done.returncode == 0
    assert pyogrio.read_info(tmp_path / "out.geojsonl")["driver"] == "GeoJSONSeq"
    frame = geopandas.read_file(tmp_path / "out.geojsonl")
    assert list(frame["id"]) == ["over 180_0_0", "placed_0_0", "unplaced_0_0"]
    assert [shape and shape.geom_type for shape in frame.geometry] == ["MultiPolygon", "Polygon", None]
    assert frame.crs.equals("OGC:CRS84") or frame.crs.equals("EPSG:4326")
    area = frame.geometry.iloc[[1]].to_crs("EPSG:32633").area.item()
    assert area == pytest.approx(80 * 80, rel=1e-3)
    assert frame["proj:code"].tolist()[:2] == ["EPSG:4326", "EPSG:32633"]


def test_records_without_pixels_to_read(tmp_path, rsr):
    # Nothing but the header of 241 million pixels is looked at.
    profile = {"width": 10980, "height": 10980, "count": 2, "dtype": "uint16", "nodata": 0, "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "x.tif", "w", "GTiff", transform=grid(10), SPARSE_OK=True, **profile) as raster:
        raster.descriptions = ["red", "nir"]
    done = rsr("tile", "--size", "512", "--min-valid", "0", tmp_path / "x.tif")
    found = records(done)
    assert (done.returncode, messages(done), len(found)) == (0, [], 21 * 21)
    assert len({record["id"] for record in found}) == 21 * 21
    assert all("valid" not in record["properties"] for record in found)


def test_ids_that_would_not_be_unique_are_refused(nested, write_raster, cut, rsr):
    with pytest.raises(RasterError, match=r"c/b\.tif: its tiles would have the ids of another scene, b$") as raised:
        cut(nested / "b.tif", nested / "c" / "b.tif", bands=["red"])
    assert raised.value.remedy == "id-prefix"
    write_raster(nested / "a.png", np.ones((1, 8, 8), "uint8"), driver="PNG")
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", nested, nested / "c")
    assert done.returncode == 3
    assert [record["id"] for record in records(done)] == ["a", "b", "B/x.y", "c/10", "c/b", "c/a/z", "10", "a/z"]
    refused = [line.split(": its tiles")[0] for line in messages(done) if "ids of another scene" in line]
    assert refused == [f"rsr tile: {nested}/a.png", f"rsr tile: {nested}/c/b.tif"]
    assert sum("tile it on its own with --id-prefix; skipped" in line for line in messages(done)) == 2


def test_a_scene_that_is_named_twice_is_taken_once(nested, cut, rsr):
    with pytest.raises(RasterError, match=r"b\.tif: is given twice$"):
        cut(nested / "b.tif", nested / "c" / ".." / "b.tif", bands=["red"])
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", nested / "b.tif", nested / "b.tif")
    assert (done.returncode, [record["id"] for record in records(done)]) == (3, ["b"])


def test_a_list_of_files(tmp_path, write_raster, rsr):
    names = ["z.tif", "a b.tif", "deep/ü.tif"]
    for name in names:
        write_raster(tmp_path / name, ONES, names=["red"])
    text = "\n".join([*names[:2], "", f"./{names[2]}"])  # no line feed at the end
    (tmp_path / "list").write_text(text)
    runs = [
        rsr("tile", "--whole", "--files-from", "-", input=text.encode(), cwd=tmp_path),
        rsr("tile", "--whole", "--files-from", "list", cwd=tmp_path),
    ]
    assert runs[0].stdout == runs[1].stdout
    found = records(runs[0])
    assert [record["id"] for record in found] == ["z", "a b", "ü"]
    assert [record["properties"]["source"] for record in found] == ["z.tif", "a b.tif", "./deep/ü.tif"]


def test_equal_names_in_a_list_are_told_apart(tmp_path, write_raster, rsr):
    """By their directories, whatever the order and wherever it is run; other names stay as they are."""
    for name in ("a/x.tif", "b/x.tif", "b/c/x.tif", "b/y.tif", "d/1/z.tif", "d/2/z.tif"):
        write_raster(tmp_path / "in" / name, ONES, names=["red"])
    expected = {"a/x", "b/x", "b/c/x", "y", "1/z", "2/z"}
    listed = ["a/x.tif", "b/y.tif", "./b/x.tif", f"{tmp_path}/in/b/c/x.tif", "d/2/../1/z.tif", "d/2/z.tif"]
    for paths, start in (
        (listed, "."),
        (listed[::-1], "."),
        ([f"../{path}" for path in listed if path[0] != "/"], "d"),
    ):
        done = rsr("tile", "--whole", "--files-from", "-", input="\n".join(paths).encode(), cwd=tmp_path / "in" / start)
        assert (done.returncode, messages(done)) == (0, [])
        found = [record["id"] for record in records(done)]
        assert len(found) == len(paths)
        assert set(found) <= expected
    # also those in directories, and of products
    done = rsr("tile", "--whole", "--files-from", "-", input=b"a\nd/1\nb", cwd=tmp_path / "in")
    assert [record["id"] for record in records(done)] == ["a/x", "z", "b/x", "y", "c/x"]
    for name in ("p", "q"):
        safe(tmp_path / name, write_raster, "N0509")
    product = next((tmp_path / "p").iterdir()).name
    paths = f"p/{product}\nq/{product}"
    command = ["tile", "--per-band", "--sensor", "sentinel2-l2a", "--size", 36, "--files-from", "-"]
    done = rsr(*command, input=paths.encode(), cwd=tmp_path)
    ids = [f"{name}/{product.removesuffix('.SAFE')}_{x}_{y}" for name in "pq" for y in (0, 36) for x in (0, 36)]
    assert [record["id"] for record in records(done)] == ids


def test_a_doubt_says_what_to_type(tmp_path, write_raster, rsr):
    write_raster(tmp_path / "x.tif", np.full((2, 64, 64), 30000, "uint16"), names=["red", "QA"])
    command = ["tile", "--whole", "x.tif"]
    done = rsr(*command, cwd=tmp_path)
    assert (done.returncode, len(records(done))) == (0, 1)
    assert messages(done) == [
        "rsr tile: x does not use QA, which is no STAC common name; pass --bands to name them, or - to leave them out",
        "rsr tile: x has numbers above 16000 (100% of red), which reflectance x 10000 cannot be; check --scale and"
        " --offset: reflectance x 65535, for example, needs --scale 0.15259 --offset 0",
    ]
    done = rsr(*command, "--scale", "0.15259", "--bands", "red,-", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rsr(*command, "-q", cwd=tmp_path).stderr == b""


def test_a_list_of_paths_with_windows_line_ends(tmp_path, write_raster, rsr):
    write_raster(tmp_path / "x.tif", np.ones((1, 4, 4), "uint16"), names=["red"])
    done = rsr("tile", "--whole", "--files-from", "-", input=b"x.tif\r\n", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_list_of_directories_of_single_band_files(tmp_path, write_raster, cut, rsr):
    for name in ("p1", "p2", "deep/p3"):
        for band in ("B02", "B03"):
            write_raster(tmp_path / name / f"x_{band}.tif", ONES)
    command = ["tile", "--whole", "--per-band", "--sensor", "sentinel2-l2a", "--files-from", "-"]
    done = rsr(*command, input=b"p2\ndeep/p3\np1\n", cwd=tmp_path)
    found = records(done)
    assert [record["id"] for record in found] == ["p2", "p3", "p1"]
    assert found[0]["properties"]["source"] == {"blue": "p2/x_B02.tif", "green": "p2/x_B03.tif"}
    tree = cut(tmp_path, per_band=True, sensor="sentinel2-l2a", labels_from_parent=True)
    assert [tile["id"] for tile in tree] == ["deep/p3", "p1", "p2"]
    assert [tile["properties"]["labels"] for tile in tree] == [["deep"], [tmp_path.name], [tmp_path.name]]


@pytest.mark.parametrize(("nodata", "chips"), [(0, []), (None, ["--chips", "chips"])])
def test_a_tile_that_cannot_be_read_is_skipped_alone(tmp_path, write_raster, rsr, nodata, chips):
    pixels = np.random.default_rng(0).integers(1, 9, (1, 64, 64), dtype="uint8")
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    path = Path(write_raster(tmp_path / "x.tif", pixels, names=["red"], nodata=nodata, **blocks))
    with rasterio.open(path) as raster:
        offset, size = (int(raster.get_tag_item(f"BLOCK_{what}_1_2", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    whole = path.read_bytes()
    path.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    done = rsr("tile", "--size", "16", "--keep-going", *chips, path, cwd=tmp_path)
    assert done.returncode == 3
    said = done.stderr.decode().splitlines()
    assert len(said) == 3  # it, the count, and that uint8 is taken as reflectance
    assert "(tile x_16_32); skipped" in said[1]
    ids = {json.loads(line)["id"] for line in done.stdout.splitlines()}
    assert ids == {f"x_{x}_{y}" for x in range(0, 64, 16) for y in range(0, 64, 16)} - {"x_16_32"}


BANDS = {1: "red", 3: "red,green,blue", 4: "blue,green,red,nir"}


def test_awkward_rasters_give_a_record_or_a_reason(shared_data, tmp_path, rsr):
    known = {"all-nodata": 4, "alpha": 3, "RGBA.uint16": 3, "RGB.byte": 3, "RGB.byte.gcp": 3, "RGB.byte.rpc": 3}
    known |= {"corrupt": 3, "goes": 3, "green": 3, "red": 3}
    paths = sorted(path for path in (shared_data / "awkward").iterdir() if path.suffix != ".ovr")
    found, said = {}, []
    for count, names in BANDS.items():
        chosen = [path for path in paths if known.get(path.stem, 1) == count]
        chips = [] if count == 3 else ["--chips", tmp_path]
        done = rsr("tile", "--whole", "--keep-going", "--bands", names, *chips, *chosen)
        assert done.returncode == 3
        found |= {record["id"]: record for record in records(done)}
        said += [line.removeprefix("rsr tile: ") for line in messages(done)]
    refused = {line.split(": ")[0] for line in said if line.endswith("; skipped")}
    assert {Path(path).name for path in refused} == {"all-nodata.tif", "corrupt.tif", "RGB.nc", "two-subs.h5"}
    assert len(found) == len(paths) - len(refused)
    unplaced = {name for name, record in found.items() if record["geometry"] is None}
    assert unplaced == {"float", "float_nan", "rotated", "goes"}
    for path in paths:
        if "valid" in found.get(path.stem, {"properties": {}})["properties"]:
            with rasterio.open(path) as raster:
                used = [i for i, kind in enumerate(raster.colorinterp, 1) if kind != ColorInterp.alpha]
                valid = (raster.read_masks(used) > 0) & np.isfinite(raster.read(used))
            assert found[path.stem]["properties"]["valid"] == pytest.approx(valid.all(axis=0).mean(), abs=1e-6)
    assert found["world.byte"]["bbox"] == [-180, -75, 180, 75]
    for name, record in found.items():
        with rasterio.open(record["properties"]["source"]) as chip:
            assert (chip.height, chip.width) == tuple(record["properties"]["proj:shape"]), name


@pytest.fixture
def bad(tmp_path, write_raster):
    """Return inputs that cannot be used, with the message for each, and one that can."""
    big = np.random.default_rng(0).integers(0, 9999, (1, 200, 200)).astype("uint16")
    whole = Path(write_raster(tmp_path / "whole.tif", big, nodata=0)).read_bytes()
    (tmp_path / "truncated.tif").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "empty.tif").write_text("")
    (tmp_path / "secret.tif").symlink_to("nowhere.tif")
    (tmp_path / "empty").mkdir()
    write_raster(tmp_path / "blank.tif", ONES * 0, nodata=0)
    write_raster(tmp_path / "nan.tif", np.full((1, 8, 8), np.nan, "float32"))
    write_raster(tmp_path / "complex.tif", np.ones((1, 8, 8), "complex64"))
    write_raster(tmp_path / "two.tif", np.ones((2, 8, 8), "uint16"))
    expected = {
        "truncated.tif": "cannot be read: ",
        "text.tif": "cannot be read: ",
        "empty.tif": "is empty",
        "none.tif": "no such file",
        "secret.tif": "no such file",
        "empty": "contains no raster (.tif ",
        "blank.tif": "its only tile has too few valid pixels; pass --min-valid 0 to keep every tile",
        "nan.tif": "its only tile has too few valid pixels",
        "complex.tif": "has complex numbers, which are not reflectance",
        "two.tif": "has 2 bands, not counting alpha, but 1 is named; pass --bands with one name per band, - for a",
        "/vsizip/none.zip/x.tif": "cannot be read: ",
    }
    return {
        name if name[0] == "/" else str(tmp_path / name): text for name, text in expected.items()
    }, tmp_path / "whole.tif"


def test_bad_inputs_are_reported_and_skipped(bad, rsr):
    expected, good = bad
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", *expected, good)
    assert done.returncode == 3
    assert [record["id"] for record in records(done)] == ["whole"]
    said = messages(done)
    assert said[-2:] == [
        "rsr tile: left out 2 tiles without enough valid pixels; see --min-valid",
        f"rsr tile: {len(expected)} skipped",
    ]
    assert sum("taking them as reflectance" in line for line in said) == 1  # nan.tif
    told = [line for line in said if line.endswith("; skipped")]
    for line, (path, text) in zip(told, expected.items(), strict=True):
        assert line.startswith(f"rsr tile: {path}: {text}")


@pytest.mark.parametrize("name", ["none.tif", "truncated.tif", "empty"])
def test_the_first_bad_input_ends_the_run(bad, tmp_path, rsr, name):
    expected, good = bad
    path = str(tmp_path / name)
    done = rsr("tile", "--whole", "--bands", "red", good, path, good, "-o", tmp_path / "out.geojsonl")
    (line,) = messages(done)
    assert done.returncode == 1
    assert line.startswith(f"rsr tile: {path}: {expected[path]}")
    assert not list(tmp_path.glob("*out.geojsonl*"))


def test_a_name_that_json_cannot_contain(tmp_path, write_raster, rsr):
    write_raster(tmp_path / "good.tif", ONES)
    shutil.copy(tmp_path / "good.tif", os.fsdecode(os.fsencode(tmp_path) + b"/latin-\xe9.tif"))
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", tmp_path)
    assert done.returncode == 3
    assert [record["id"] for record in records(done)] == ["good"]
    assert "has a name that is not UTF-8, which JSON cannot contain; rename it; skipped" in messages(done)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no input; pass files or directories, --files-from, or - for STAC Items on stdin"),
        (
            ["--bands", "nir8", "x.tif"],
            "--bands: 'nir8' is not a STAC common name of a band; did you mean nir08 or nir?",
        ),
        (
            ["--bands", "a b", "x.tif"],
            "--bands: 'a b' is not a STAC common name, and cannot be a name of your own: use ",
        ),
        (["--bands", "red,red", "x.tif"], "--bands: red named twice"),
        (["-", "-"], ITEMS_ON_STDIN),
        (
            ["-", "--files-from", "-"],
            ITEMS_ON_STDIN,
        ),
        (
            ["-", "--dataset", "folders"],
            ITEMS_ON_STDIN,
        ),
        (["--whole", "--size", "64", "x.tif"], "--whole makes each scene one tile; leave --size and --stride out"),
        (["--whole", "--stride", "64", "x.tif"], "--whole makes each scene one tile; leave --size and --stride out"),
        (["--bands", "-,-", "x.tif"], "--bands: no band is named"),
        (["--bands", "red,,nir", "x.tif"], "invalid value for '--bands': 'red,,nir' has an empty item"),
        (["--per-band", "."], "--per-band needs --sensor, which defines how single-band files are named"),
        (["--datetime", "yesterday", "x.tif"], "'yesterday' is not a date or time such as 2023-06-10"),
        (["--scale", "nan", "x.tif"], "--scale is not a finite number"),
        (["--scale", "0", "x.tif"], "--scale is 0, which makes all pixels alike"),
        (["--scale", "-0.0", "--offset", "5", "x.tif"], "--scale is 0, which makes all pixels alike"),
        (["--min-valid", "1.5", "x.tif"], "invalid value for '--min-valid': 1.5 is not in the range 0<=x<=1"),
        (
            ["--sensor", "alphaearth", "--scale", "2", "x.tif"],
            "--sensor alphaearth decides --scale and --offset itself",
        ),
        (["--sensor", "geotessera", "--offset", "0", "x.tif"], "--sensor geotessera decides --scale and --offset"),
        (["--sensor", "sentinel", "x.tif"], "invalid value for '--sensor': 'sentinel' is not one of 'alphaearth', "),
    ],
)
def test_wrong_usage(tmp_path, write_raster, rsr, arguments, message):
    write_raster(tmp_path / "x.tif", ONES)
    done = rsr("tile", "--whole", *arguments, cwd=tmp_path)
    (line,) = messages(done)
    assert (done.returncode, failure_in(done.stdout)["status"]) == (2, 2)
    assert line.startswith(f"rsr tile: {message}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "bigearthnet", "--classes", "12"], "bigearthnet takes --classes 43 or 19"),
        (["--dataset", "folders", "--classes", "12"], "folders takes no --classes"),
        (["--dataset", "bigearthnet", "--sensor", "eurosat"], "bigearthnet decides --sensor itself"),
        (["--dataset", "bigearthnet", "--datetime", "2001-01-01"], "bigearthnet decides --datetime itself"),
        (["--dataset", "bigearthnet", "--per-band"], "bigearthnet decides --per-band itself"),
        (["--dataset", "bigearthnet", "--seed", "1"], "--seed is for --dataset folders with --split"),
        (["--dataset", "forestnet", "--scale", "1"], "forestnet decides --scale itself"),
        (["--dataset", "forestnet", "--offset", "0"], "forestnet decides --offset itself"),
        (["--dataset", "bigearthnet", "--bands", "cirrus"], "bigearthnet has no band cirrus"),
        (["--dataset", "bigearthnet", "--size", "60"], "--dataset takes each patch whole"),
        (["--split", "val"], "--split and --classes are for --dataset"),
        (["--dataset", "imagenet"], "'imagenet' is not one of"),
    ],
)
def test_options_that_do_not_fit(rsr, miniature, arguments, says):
    done = rsr("tile", *arguments, miniature / "BigEarthNet")
    assert (done.returncode, failure_in(done.stdout)["status"]) == (2, 2)
    assert says in done.stderr.decode()


@needs_torch
def test_a_dataset_pipes(rsr, miniature):
    tiles = rsr("tile", "--dataset", "forestnet", "--classes", "4", "--split", "test", miniature / "ForestNetDataset")
    assert (tiles.returncode, tiles.stderr) == (0, b"")
    done = rsr("embed", "--model", "rcf", "--size", "64", input=tiles.stdout)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == SPLITS["test"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sensor", "sentinel2"], "'sentinel2' is not one of .*; did you mean sentinel2-l1c, sentinel2-l2a\\?"),
        (["--sensor", "landsat-8"], "'landsat-8' is not one of .*; did you mean landsat8, .*\\?"),
        (["--sensor", "modis"], "'modis' is not one of .*'sentinel2-l2a'; see rsr tile --help"),
        (["--dataset", "bigearthnet2"], "'bigearthnet2' is not one of .*; did you mean bigearthnet\\?"),
    ],
)
def test_choices_that_are_nearly_right(rsr, tmp_path, arguments, says):
    done = rsr("tile", *arguments, "x.tif", cwd=tmp_path)
    (line,) = messages(done)
    assert done.returncode == 2
    assert re.search(f"{says}$", line)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mask-clouds"], "--mask-clouds needs a --sensor with a classification: Fmask of hls-l30"),
        (["--mask-clouds", "--sensor", "eurosat"], "--mask-clouds needs a --sensor with a classification"),
        (["--mask-clouds", "--sensor", "landsat8", "--mask-values", "1"], "--mask-clouds has values of its own"),
        (["--mask-clouds", "--mask-band", "qa"], "--mask-clouds and --mask-band both state what to mask by; pass one"),
        (["--mask-band", "qa", "--mask-file", "x"], "--mask-band and --mask-file both state what to mask by"),
        (["--mask-band", "qa"], "--mask-band needs --mask-values or --mask-bits"),
        (["--mask-file", "qa.tif"], "--mask-file needs --mask-values or --mask-bits"),
        (["--mask-bits", "1"], "--mask-bits needs --mask-band or --mask-file"),
        (["--mask-values", "1"], "--mask-values needs --mask-band or --mask-file"),
        (
            ["--mask-file", "{name}.tif", "--mask-bits", "1"],
            "--mask-file has {name}, but only {stem} stands for",
        ),
        (["--mask-file", "{stem}_{}.tif", "--mask-bits", "1"], "--mask-file has {}, but only {stem} stands for"),
        (["--mask-band", "qa", "--mask-values", "a"], "'a' is not a list of whole numbers and ranges, such as 3,8-10"),
        (["--mask-band", "qa", "--mask-values", "4-2"], "'4-2' is not a list of whole numbers and ranges"),
        (["--mask-band", "qa", "--mask-values", "1,,2"], "'1,,2' is not a list of whole numbers and ranges"),
        (["--mask-band", "qa", "--mask-values", "0-999999999"], "'0-999999999' is not a list of whole numbers"),
    ],
)
def test_masks_that_are_not_stated_well(rsr, tmp_path, arguments, says):
    done = rsr("tile", *arguments, "x.tif", cwd=tmp_path)
    (line,) = messages(done)
    assert (done.returncode, says in line) == (2, True), line


@needs_torch
def test_clouds_are_masked_to_the_end_of_the_pipe(rsr, tmp_path, write_raster):
    """A cloud does not change the vector, and chips have it in their pixels."""
    scene = np.random.default_rng(0).integers(200, 3000, (6, 40, 40)).astype("uint16")
    cloud = np.zeros((40, 40), "uint16")
    cloud[:15, :20] = 1 << 3
    vectors = []
    for name, brightness in (("clear", 0), ("cloudy", 9000)):
        for band, pixels in zip((2, 3, 4, 5, 6, 7), scene, strict=True):
            path = tmp_path / name / f"LC08_L2SP_020039_20150804_20200908_02_T1_SR_B{band}.TIF"
            write_raster(path, pixels + brightness * (cloud > 0).astype("uint16"), nodata=0)
        write_raster(tmp_path / name / "LC08_L2SP_020039_20150804_20200908_02_T1_QA_PIXEL.TIF", cloud)
        for chips in ([], ["--chips", tmp_path / f"chips-{name}"]):
            done = rsr(
                "tile", "--per-band", "--sensor", "landsat8", "--whole", "--mask-clouds", *chips, tmp_path / name
            )
            (record,) = records(done)
            assert (record["properties"]["valid"], record["properties"]["eo:cloud_cover"]) == (0.8125, 18.75)
            (embedded,) = map(json.loads, rsr("embed", "--model", "rcf", input=done.stdout).stdout.splitlines())
            vectors.append(embedded["properties"]["embedding"]["data"])
    assert len(set(vectors)) == 1


def test_the_tiles_of_a_large_scene_come_in_order_without_those_that_cannot_be_read(tmp_path, write_raster, rsr):
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate", "nodata": 0}
    pixels = np.random.default_rng(0).integers(1, 900, (1, 160, 160)).astype("uint16")
    pixels[:, 40:48, 40:48] = 0
    path = write_raster(tmp_path / "x.tif", pixels, names=["red"], **blocks)
    with rasterio.open(path) as raster:
        start = int(raster.get_tag_item("BLOCK_OFFSET_3_2", "TIFF", bidx=1))
    with Path(path).open("r+b") as file:
        file.seek(start)
        file.write(bytes(50))
    done = rsr("tile", "--size", 8, "--scale", 1, "--offset", 0, "--keep-going", path)
    offsets = [(column, row) for row in range(0, 160, 8) for column in range(0, 160, 8)]
    broken = [(column, row) for column, row in offsets if 96 <= column < 128 and 64 <= row < 96]
    expected = [f"x_{column}_{row}" for column, row in offsets if (column, row) not in [*broken, (40, 40)]]
    assert [record["id"] for record in records(done)] == expected
    assert done.returncode == 3
    assert sum("cannot be read" in message for message in messages(done)) == len(broken)


GRID = ["--scale", "1", "--grid", "major-tom:500m"]


def test_two_dates_of_a_place_share_the_codes_of_a_grid(rsr, tmp_path, write_raster):
    """Their tiles are told apart by their ids, and joined by the code; both go into one index."""
    scenes = [
        write_raster(tmp_path / f"S2A_MSIL2A_{day}.tif", np.full((1, 200, 300), 900, "uint16"), names=["red"])
        for day in ("20230610T103629", "20240110T103629")
    ]
    tiles = records(rsr("tile", *GRID, *scenes))
    names = {tile["id"].partition("_MAJORTOM")[0] for tile in tiles}
    codes = collections.Counter(tile["properties"]["grid:code"] for tile in tiles)
    assert len(names) == 2
    assert set(codes.values()) == {2}
    assert len(codes) > 5
    assert all(tile["id"].endswith(f"_{tile['properties']['grid:code']}") for tile in tiles)
    for tile in tiles:
        tile["properties"]["embedding"] = embedding(np.arange(1, 9))
    built = rsr("index", "-o", tmp_path / "i.rsr", input=b"".join(orjson.dumps(tile) + b"\n" for tile in tiles))
    assert (built.returncode, built.stderr) == (0, b"")
    found = rsr("query", tmp_path / "i.rsr", "--id", tiles[0]["id"], "-k", len(tiles)).stdout
    hits = [json.loads(line) for line in found.splitlines()]
    assert {hit["properties"]["grid:code"] for hit in hits} == codes.keys()


def test_chips_of_a_grid_are_named_after_its_cells(rsr, tmp_path, write_raster):
    scene = write_raster(tmp_path / "a.tif", bands_of(1, 200, 300), names=["red"])
    tiles = records(rsr("tile", *GRID, "--chips", tmp_path / "chips", scene))
    assert tiles
    for tile in tiles:
        assert (tmp_path / "chips" / f"a_{tile['properties']['grid:code']}.tif").is_file()
        assert rasters.read_pixels(tile, ["red"]).shape == (1, 50, 50)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "64"], "--grid and --size both decide the tiles' windows; leave one out"),
        (["--stride", "64"], "--grid and --stride both decide"),
        (["--whole"], "--grid and --whole both decide"),
        (["--dataset", "folders"], "--grid and --dataset both decide"),
        (["--edge", "shift"], "--edge shift would move tiles out of the cells of --grid; pass drop or pad"),
        (["--grid", "mgrs:10km"], "'mgrs:10km' is no grid; write major-tom and a spacing of 10m to 1000km"),
        (["--grid", ""], "'' is no grid; write major-tom"),
    ],
)
def test_a_grid_stands_alone(rsr, tmp_path, write_raster, arguments, says):
    write_raster(tmp_path / "x.tif", np.ones((1, 64, 64), "uint8"), names=["red"])
    done = rsr("tile", *GRID, *arguments, "x.tif", cwd=tmp_path)
    (line,) = messages(done)
    assert (done.returncode, says in line) == (2, True), line


def test_cells_without_enough_valid_pixels_are_left_out(rsr, tmp_path, write_raster):
    pixels = np.full((1, 300, 300), 900, "uint16")
    pixels[:, :, :150] = 0
    scene = write_raster(tmp_path / "x.tif", pixels, names=["red"], nodata=0)
    kept = {least: records(rsr("tile", *GRID, "--min-valid", least, scene)) for least in ("0", "0.5", "1")}
    assert len(kept["0"]) > len(kept["0.5"]) > len(kept["1"]) > 0
    for tile in kept["0.5"]:
        left, _, width, _ = tile["properties"]["window"]
        assert tile["properties"]["valid"] == pytest.approx(min(1, (left + width - 150) / width))
