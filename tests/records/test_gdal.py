"""GDAL's own programs read every stage, and what they write is read again."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from support import code_records, embedding_records

pytestmark = pytest.mark.skipif(shutil.which("ogr2ogr") is None, reason="ogr2ogr is not installed (gdal-bin)")


@pytest.fixture(scope="module")
def stages(tmp_path_factory, write_raster, rsr):
    """Return the files of tiles, embeddings and codes, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("gdal")
    pixels = np.random.default_rng(0).integers(200, 3000, (6, 64, 96)).astype("uint16")
    scene = write_raster(folder / "lake" / "scene.tif", pixels)
    bands = "blue,green,red,nir08,swir16,swir22"
    rsr("tile", scene, "--bands", bands, "--size", 16, "--labels-from-parent", "-o", folder / "tiles.geojsonl")
    draw = np.random.default_rng(1)
    tiles = [json.loads(line) for line in (folder / "tiles.geojsonl").read_text().splitlines()]
    vectors = draw.normal(size=(len(tiles), 16)).astype("<f4")
    for name, made in {
        "embeddings": embedding_records(vectors),
        "codes": code_records(np.packbits(vectors > 0, axis=1), 16),
    }.items():
        with (folder / f"{name}.geojsonl").open("w") as file:
            for tile, record in zip(tiles, made, strict=True):
                file.write(json.dumps({**tile, "properties": {**tile["properties"], **record["properties"]}}) + "\n")
    return folder


def run(*command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("stage", ["tiles", "embeddings", "codes"])
def test_ogrinfo_lists_every_record(stages, stage):
    said = run("ogrinfo", "-al", "-so", stages / f"{stage}.geojsonl").stdout
    assert "GeoJSONSeq" in said
    assert "Feature Count: 24" in said
    assert "Geometry: Polygon" in said
    assert "labels: StringList" in said


@pytest.mark.parametrize("options", [(), ("-lco", "ID_FIELD=id"), ("-lco", "RS=YES")], ids=["plain", "id", "RS"])
@pytest.mark.parametrize("stage", ["embeddings", "codes"])
def test_what_ogr2ogr_writes_is_indexed_as_before(stages, tmp_path, rsr, stage, options):
    before, after = stages / f"{stage}.geojsonl", tmp_path / "again.geojsonl"
    run("ogr2ogr", "-f", "GeoJSONSeq", *options, "-lco", "COORDINATE_PRECISION=7", after, before)
    assert b'"bbox"' not in after.read_bytes()
    for file, name in ((before, "before"), (after, "after")):
        done = rsr("index", file, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    segments = [next((tmp_path / name / "segments").iterdir()) for name in ("before", "after")]
    for array in ("vectors", "bbox", "times", "labels", "label_ends"):
        one, other = (np.load(segment / f"{array}.npy") for segment in segments)
        np.testing.assert_array_equal(one, other, err_msg=array)
    hits = [rsr("query", tmp_path / name, "--id", "scene_16_32", "-k", 5).stdout for name in ("before", "after")]
    first, second = ([json.loads(line) for line in found.splitlines()] for found in hits)
    keys = ("query", "rank", "distance", "window", "labels", "gsd")
    assert [[hit["properties"][key] for key in keys] for hit in first] == [
        [hit["properties"][key] for key in keys] for hit in second
    ]


def test_hits_become_a_geopackage(stages, tmp_path, rsr):
    rsr("index", stages / "codes.geojsonl", "-o", tmp_path / "x.rsr")
    rsr("query", tmp_path / "x.rsr", "--id", "scene_0_0", "-k", 7, "-o", tmp_path / "hits.geojsonl")
    run("ogr2ogr", tmp_path / "hits.gpkg", tmp_path / "hits.geojsonl")
    said = run("ogrinfo", "-al", "-so", tmp_path / "hits.gpkg").stdout
    assert "Feature Count: 7" in said
    assert "rank: Integer" in said
