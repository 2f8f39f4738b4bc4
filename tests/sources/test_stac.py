"""STAC Items as scenes: which band is which file, what their numbers mean, and where Items are found."""

import base64
import json
import re
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from support import needs_torch
from support_rasters import grid, messages, records
from support_stac import COG, EARTH_SEARCH, earth_search, hls, item, landsat, numbers, save

from rsr_cli.core import rasters
from rsr_cli.core.reach import allowing


def tiled(rsr, *arguments, input=None, cwd=None):  # noqa: A002
    done = rsr("tile", "--whole", *arguments, input=input, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return records(done)


def refused(rsr, *arguments, **settings):
    done = rsr("tile", "--whole", *arguments, **settings)
    assert done.returncode == 1, done
    return messages(done)[-1]


def value(tile, band):
    """Return the one reflectance x 10000, or number in the band's unit, of a band."""
    (found,) = np.unique(rasters.read_pixels(tile, [band]))
    return float(found)


def served(folder):
    """Start a server of a directory in a process of its own, and return it with its address."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    port = process.stdout.readline().split("port ")[1].split()[0]
    address = f"http://127.0.0.1:{port}"
    for _ in range(50):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return process, address
        except OSError:
            time.sleep(0.1)
    raise AssertionError("no server")


@pytest.fixture
def server(tmp_path):
    process, address = served(tmp_path)
    yield address
    process.terminate()
    process.communicate(timeout=10)


@pytest.mark.parametrize(("applied", "shift"), [(True, 0), (False, -1000)])
def test_sentinel_2_of_earth_search(tmp_path, write_raster, rsr, applied, shift):
    """The offset that an Item states is in the numbers only if the Item states that it was not applied."""
    path = save(tmp_path / "item.json", earth_search(tmp_path, write_raster, applied=applied))
    (tile,) = tiled(rsr, path)
    names = ["blue", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "swir22"]
    assert tile["properties"]["bands"] == names
    for number, (name, (_, file, *_)) in enumerate(zip(names, EARTH_SEARCH, strict=True), 1):
        assert tile["properties"]["source"][name] == str(tmp_path / f"{file}.tif")
        assert value(tile, name) == pytest.approx(1000 + 100 * number + shift)
    facts = {"datetime": "2023-06-10T10:00:31Z", "eo:cloud_cover": 37.5, "collection": "sentinel-2-l2a", "nodata": 0}
    assert facts.items() <= tile["properties"].items()
    assert (tile["id"], tile["properties"]["proj:code"]) == ("S2A_33UUP_20230610_0_L2A", "EPSG:32633")


def test_landsat_of_the_planetary_computer(tmp_path, write_raster, rsr):
    """Bands of one scene have different scales, and one is in kelvin."""
    (tile,) = tiled(rsr, save(tmp_path / "item.json", landsat(tmp_path, write_raster)))
    assert tile["properties"]["bands"] == ["blue", "red", "nir08", "swir16", "lwir11"]
    assert value(tile, "blue") == pytest.approx((9000 * 0.0000275 - 0.2) * 10000, rel=1e-5)
    assert value(tile, "swir16") == pytest.approx((12000 * 0.0000275 - 0.2) * 10000, rel=1e-5)
    assert value(tile, "lwir11") == pytest.approx(13000 * 0.00341802 + 149, rel=1e-5)
    assert tile["properties"]["nodata"] == 0


@pytest.mark.parametrize("named", [True, False])
def test_hls(tmp_path, write_raster, rsr, named):
    """LPCLOUD's Items do not name bands: a sensor does."""
    path = save(tmp_path / "item.json", hls(tmp_path, write_raster, named=named))
    if not named:
        assert "has no asset whose bands have common names" in refused(rsr, path)
    (tile,) = tiled(rsr, "--sensor", "hls-s30", path)
    assert tile["properties"]["bands"] == ["blue", "rededge071", "nir08", "swir16"]
    assert [value(tile, name) for name in tile["properties"]["bands"]] == [1000, 2000, 3000, 4000]
    assert tile["properties"]["nodata"] == -9999


@needs_torch
def test_sources_of_different_scales_embed_alike(tmp_path, write_raster, rsr):
    """The same reflectance in the numbers of Sentinel-2, HLS and Landsat makes the same embedding."""
    generator = np.random.default_rng(3)
    truth = generator.integers(400, 3000, (64, 64)).astype(float)
    spellings = {"s2": (0.0001, -0.1), "hls": (0.0001, 0), "landsat": (0.0000275, -0.2)}
    for name, (scale, offset) in spellings.items():
        assets = {}
        for band in ("red", "nir08"):
            raw = np.round((truth / 10000 - offset) / scale).astype("uint16")
            write_raster(tmp_path / f"{name}_{band}.tif", raw)
            stated = {"nodata": 0, "scale": scale, "offset": offset}
            facts = {"eo:bands": [{"name": band, "common_name": band}], "raster:bands": [stated]}
            assets[band] = {"href": f"{name}_{band}.tif", "type": COG, **facts}
        save(tmp_path / f"{name}.json", item(name, assets))
    done = rsr("tile", "--whole", *(f"{name}.json" for name in spellings), cwd=tmp_path)
    done = rsr("embed", "--model", "rcf:bands=red,nir08", input=done.stdout, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = [json.loads(line)["properties"]["embedding"]["data"] for line in done.stdout.splitlines()]
    embeddings = [np.frombuffer(base64.b64decode(data), "<f4") for data in made]
    for one in embeddings[1:]:
        assert one @ embeddings[0] / np.linalg.norm(one) / np.linalg.norm(embeddings[0]) > 0.999


def test_clouds_are_masked_by_the_items_own_classification(tmp_path, write_raster, rsr):
    """The share that was measured of a tile counts for more than the scene's."""
    path = save(tmp_path / "item.json", earth_search(tmp_path, write_raster))
    (tile,) = tiled(rsr, "--sensor", "sentinel2-l2a", "--mask-clouds", path)
    assert tile["properties"]["mask"]["source"] == str(tmp_path / "SCL.tif")
    assert (tile["properties"]["eo:cloud_cover"], tile["properties"]["valid"]) == (25, 0.75)
    (tile,) = tiled(rsr, "--mask-band", "scl", "--mask-values", "9", path)
    assert tile["properties"]["valid"] == 0.75
    line = refused(rsr, "--mask-band", "clouds", "--mask-values", "9", path)
    assert "has no asset clouds to mask with (has " in line


def test_bands_choose(tmp_path, write_raster, rsr):
    path = save(tmp_path / "item.json", earth_search(tmp_path, write_raster))
    (tile,) = tiled(rsr, "--bands", "nir,red", path)
    assert [*tile["properties"]["source"]] == tile["properties"]["bands"] == ["nir", "red"]
    line = refused(rsr, "--bands", "nir,swir16", path)
    assert line.startswith(
        f"rsr tile: {path}: band swir16 is missing (has blue red rededge071".replace(" red", ", red")
    )


@pytest.mark.parametrize(("baseline", "settings"), [("03.01", []), ("05.09", []), ("05.09", ["--offset", "-1000"])])
def test_an_offset_that_nothing_states(tmp_path, write_raster, rsr, baseline, settings):
    """As Sentinel-2 of the Planetary Computer, whose Items have no raster:bands."""
    document = earth_search(tmp_path, write_raster, **{"s2:processing_baseline": baseline})
    del document["properties"]["earthsearch:boa_offset_applied"]
    for asset in document["assets"].values():
        asset.pop("raster:bands", None)
    done = rsr("tile", "--whole", "--bands", "red", *settings, save(tmp_path / "item.json", document))
    (tile,) = records(done)
    assert tile["properties"]["offset"] == (-1000 if settings else 0)
    warned = b"states baseline 05.09 and no offset, and products of baseline 04.00 and later have one of -1000"
    assert (warned in done.stderr) == (baseline == "05.09" and not settings)


def test_what_the_user_states_counts_for_more(tmp_path, write_raster, rsr):
    path = save(tmp_path / "item.json", earth_search(tmp_path, write_raster))
    settings = ["--scale", "2", "--offset", "-7", "--nodata", "5", "--datetime", "2020-01-01", "--bands", "red"]
    (tile,) = tiled(rsr, *settings, path)
    facts = {"scale": 2, "offset": -7, "nodata": 5, "datetime": "2020-01-01T00:00:00Z"}
    assert facts.items() <= tile["properties"].items()


def test_what_the_file_declares_counts_for_more_than_the_item(tmp_path, write_raster, rsr):
    document = earth_search(tmp_path, write_raster)
    import rasterio

    with rasterio.open(tmp_path / "B04.tif", "r+") as dataset:
        dataset.scales, dataset.offsets, dataset.nodata = [0.0002], [-0.05], 7
    done = rsr("tile", "--whole", "--bands", "red", save(tmp_path / "item.json", document))
    (tile,) = records(done)
    assert (tile["properties"]["scale"], tile["properties"]["offset"]) == pytest.approx((2, -500))
    assert "nodata" not in tile["properties"]
    assert "declares scale 0.0002 and offset -0.05 of red, where its Item states scale 0.0001" in messages(done)[0]


def test_bands_of_1_1_with_facts_of_the_asset(tmp_path, write_raster, rsr):
    """As the Copernicus Data Space writes them: an asset per resolution, of which the finest is taken."""
    assets = {}
    for metres in (20, 10):
        write_raster(tmp_path / f"B02_{metres}m.tif", numbers(3000 + metres, metres), transform=grid(metres))
        assets[f"B02_{metres}m"] = {
            "href": f"B02_{metres}m.tif",
            "type": COG,
            "roles": ["data", "reflectance"],
            "gsd": metres,
            "nodata": 0,
            "raster:scale": 0.0001,
            "raster:offset": -0.1,
            "alternate:name": "S3",
            "bands": [{"name": "B02", "eo:common_name": "blue", "eo:center_wavelength": 0.493}],
        }
    document = item("cdse", assets) | {"stac_version": "1.1.0"}
    (tile,) = tiled(rsr, save(tmp_path / "item.json", document))
    assert tile["properties"]["source"] == {"blue": str(tmp_path / "B02_10m.tif")}
    assert value(tile, "blue") == pytest.approx(2010)


def test_a_file_of_several_bands(tmp_path, write_raster, rsr):
    pixels = np.stack([numbers(10 * n, 10, "uint8") for n in range(1, 5)])
    write_raster(tmp_path / "naip.tif", pixels)
    names = ["red", "green", "blue", "nir"]
    bands = [{"name": name, "common_name": name} for name in names]
    path = save(tmp_path / "i.json", item("naip", {"image": {"href": "naip.tif", "type": COG, "eo:bands": bands}}))
    (tile,) = tiled(rsr, "--bands", "nir,red", "--scale", "1", "--offset", "0", path)
    assert tile["properties"]["source"]["nir"] == f"vrt://{tmp_path}/naip.tif?bands=4"
    assert (value(tile, "nir"), value(tile, "red")) == (40, 10)


def test_bands_that_cannot_be_told_apart(tmp_path, write_raster, rsr):
    document = earth_search(tmp_path, write_raster)
    for asset in document["assets"].values():
        for band in asset.get("eo:bands", ()):
            band.pop("center_wavelength", None)
    path = save(tmp_path / "item.json", document)
    assert "has rededge in several assets of different bands: rededge1, rededge2, rededge3" in refused(rsr, path)
    (tile,) = tiled(rsr, "--bands", "red,nir", path)
    assert tile["properties"]["bands"] == ["red", "nir"]
    (tile,) = tiled(rsr, "--sensor", "sentinel2-l2a", "--bands", "rededge075", path)
    assert value(tile, "rededge075") == 1400


def test_several_numbers_of_invalid_pixels(tmp_path, write_raster, rsr):
    document = landsat(tmp_path, write_raster)
    document["assets"]["red"]["raster:bands"][0]["nodata"] = 17
    path = save(tmp_path / "item.json", document)
    assert "states 0 and 17 as the numbers of invalid pixels; pass --bands" in refused(rsr, path)
    assert tiled(rsr, "--bands", "red", path)[0]["properties"]["nodata"] == 17


@pytest.mark.parametrize("form", ["collection", "lines", "pretty", "separated"])
@pytest.mark.parametrize("through", ["file", "stdin"])
def test_forms_of_items(tmp_path, write_raster, rsr, form, through):
    first = landsat(tmp_path, write_raster)
    both = [first, {**first, "id": "other"}]
    collection = {"type": "FeatureCollection", "features": both}
    text = {
        "collection": json.dumps(collection),
        "pretty": json.dumps(collection, indent=2),
        "lines": "".join(json.dumps(one) + "\n" for one in both),
        "separated": "".join(f"\x1e{json.dumps(one)}\n" for one in both),
    }[form].encode()
    (tmp_path / "items.geojson").write_bytes(text)
    given = {"input": text} if through == "stdin" else {}
    found = tiled(rsr, "-" if through == "stdin" else "items.geojson", cwd=tmp_path, **given)
    assert [tile["id"] for tile in found] == [first["id"], "other"]


def test_a_catalogue_is_walked_along_its_links(tmp_path, write_raster, rsr):
    """Each document is read once, though links lead back to the root."""
    link = {"type": "application/json"}
    root = {"type": "Catalog", "stac_version": "1.1.0", "id": "root", "description": "x"}
    child = {"type": "Collection", "stac_version": "1.1.0", "id": "c", "description": "x", "license": "other"}
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    ways = [{"rel": "item", "href": "./b/b.json", **link}, {"rel": "item", "href": "a/a.json", **link}]
    back = [{"rel": "child", "href": "../catalog.json", **link}, {"rel": "root", "href": "../catalog.json", **link}]
    save(tmp_path / "catalog.json", {**root, "links": [{"rel": "child", "href": "./c/collection.json", **link}] * 2})
    save(tmp_path / "c" / "collection.json", {**child, "extent": extent, "links": [*ways, *back]})
    for name in "ab":
        folder = tmp_path / "c" / name
        save(folder / f"{name}.json", landsat(folder, write_raster) | {"id": name})
    assert [tile["id"] for tile in tiled(rsr, "--bands", "red", tmp_path / "catalog.json")] == ["b", "a"]
    (tmp_path / "c" / "b" / "b.json").unlink()
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", tmp_path / "catalog.json")
    assert done.returncode == 3
    assert [tile["id"] for tile in records(done)] == ["a"]
    assert "collection.json: links to" in messages(done)[0]
    assert "b/b.json: no such file or directory" in messages(done)[0]


def test_one_item_of_several_cannot_be_used(tmp_path, write_raster, rsr):
    good = landsat(tmp_path, write_raster)
    bad = {**good, "id": "bad", "assets": {}}
    path = save(tmp_path / "items.json", {"type": "FeatureCollection", "features": [bad, 3, good]})
    assert refused(rsr, path).startswith(f"rsr tile: {path}#bad: has no asset whose bands have common names (has none)")
    done = rsr("tile", "--whole", "--keep-going", path)
    assert done.returncode == 3
    assert [tile["id"] for tile in records(done)] == [good["id"]]
    assert len(messages(done)) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"type": "Feature", "properties": {"window": [0, 0, 1, 1]}}', "contains records and not a raster"),
        ('[{"type": "Feature"}]', "is no STAC but [{'type': 'Feature'}]"),
        ('{"type": "Point", "coordinates": [0, 0]}', "is no STAC but 'Point'"),
        ('{"a": [1', "is not JSON"),
        ('{"type": "Feature", "id": "x", "assets": {"red": 3}, "properties": {}}', "is no sound STAC Item"),
        ('{"type": "Feature", "id": "x", "assets": {}, "properties": {"datetime": "soon"}}', "is no sound STAC Item"),
        (
            '{"type": "Feature", "id": "x", "assets": {"a": {"href": 1, "type": 2}}, "properties": {}}',
            "no sound STAC Item",
        ),
    ],
)
def test_json_that_is_no_item(tmp_path, rsr, text, reason):
    (tmp_path / "x.json").write_text(text)
    assert reason in refused(rsr, tmp_path / "x.json")
    assert reason in refused(rsr, "-", input=text.encode())


def test_a_line_that_is_broken(tmp_path, write_raster, rsr):
    """Those after it are cut nevertheless, if that is asked for."""
    document = landsat(tmp_path, write_raster)
    lines = [json.dumps(document | {"id": name}) for name in ("a", "b", "c")]
    lines[1] = lines[1][:40]
    (tmp_path / "x.ndjson").write_text("\n\n" + "\n".join(lines))
    assert "x.ndjson:4: is not JSON" in refused(rsr, "--bands", "red", tmp_path / "x.ndjson")
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", tmp_path / "x.ndjson")
    assert (done.returncode, [tile["id"] for tile in records(done)]) == (3, ["a", "c"])


@pytest.mark.parametrize("text", ["", "\n\n", '{"type": "FeatureCollection", "features": []}'])
def test_a_search_without_a_result_is_no_failure(rsr, text):
    done = rsr("tile", "-", input=text.encode())
    assert (done.returncode, done.stdout, messages(done)) == (0, b"", ["rsr tile: <stdin>: contains no STAC Item"])


def test_a_failure_before_it_is_passed_on(rsr):
    line = b'{"type":"Failure","command":"x","status":1,"message":"boom"}\n'
    done = rsr("tile", "-", input=line)
    assert (done.returncode, done.stdout) == (1, line)


def test_items_are_cut_as_they_arrive(tmp_path, write_raster):
    """The tiles of the first Item are there before the second one is written."""
    document = landsat(tmp_path, write_raster)
    command = [sys.executable, "-m", "rsr_cli.main", "tile", "--whole", "--bands", "red", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        for name in ("a", "b"):
            process.stdin.write(json.dumps(document | {"id": name}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == name
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_range_of_time(tmp_path, write_raster, rsr):
    document = landsat(tmp_path, write_raster)
    times = {"datetime": None, "start_datetime": "2023-06-01T00:00:00Z", "end_datetime": "2023-06-30T00:00:00Z"}
    document["properties"] |= times
    (tile,) = tiled(rsr, save(tmp_path / "item.json", document))
    assert times.items() <= tile["properties"].items()


@pytest.mark.parametrize(
    ("href", "source"),
    [
        ("https://h.org/a.tif?sig=x%2Fy&se=1", "/vsicurl/https://h.org/a.tif?sig=x%2Fy&se=1"),
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("/vsiaz/container/a.tif", "/vsiaz/container/a.tif"),
    ],
)
def test_a_remote_asset_is_refused_without_permission(tmp_path, rsr, href, source):
    path = save(tmp_path / "i.json", item("i", {"red": {"href": href, "eo:bands": [{"common_name": "red"}]}}))
    line = refused(rsr, path)
    assert f"{source}: is on the network, which this run may not use; pass --allow-network" in line


@needs_torch
def test_an_item_and_its_rasters_on_a_server(tmp_path, write_raster, rsr, server):
    """Relative addresses begin at the Item's own, and the numbers are those of the files."""
    save(tmp_path / "a" / "item.json", earth_search(tmp_path / "a", write_raster))
    url = f"{server}/a/item.json"
    line = refused(rsr, "--bands", "red", url)
    assert line.startswith(f"rsr tile: {url}: is on the network, which this run may not use; pass --allow-network")
    (tile,) = tiled(rsr, "--bands", "red", "--allow-network", url)
    assert tile["properties"]["source"] == {"red": f"/vsicurl/{server}/a/B04.tif"}
    with allowing(True):
        assert value(tile, "red") == 1200
    line = json.dumps(tile).encode()
    done = rsr("embed", "--model", "rcf:bands=red", input=line)
    assert done.returncode == 1
    assert b"is on the network, which this run may not use; pass --allow-network" in done.stderr
    assert rsr("embed", "--model", "rcf:bands=red", "--allow-network", input=line).returncode == 0
    assert "404" in refused(rsr, "--allow-network", f"{server}/none.json")
    (raster,) = tiled(rsr, "--allow-network", "--bands", "red", f"{server}/a/B04.tif")
    assert raster["properties"]["source"] == f"{server}/a/B04.tif"


def test_nothing_beside_a_remote_raster_is_asked_for(tmp_path, write_raster, rsr):
    write_raster(tmp_path / "x.tif", numbers(7, 10))
    process, address = served(tmp_path)
    try:
        tiled(rsr, "--allow-network", "--bands", "red", f"{address}/x.tif")
    finally:
        process.terminate()
    asked = re.findall(r'"\w+ (\S+) HTTP', process.communicate(timeout=10)[1])
    assert {*asked} == {"/", "/x.tif"}
    assert asked.count("/") == 1  # of the test, to see that the server is there


def test_an_item_on_a_server_names_no_local_file(tmp_path, write_raster, rsr, server):
    write_raster(tmp_path / "secret.tif", numbers(1, 10))
    bands = [{"common_name": "red"}]
    hrefs = {"path": f"{tmp_path}/secret.tif", "file": f"file://{tmp_path}/secret.tif"}
    inside = {"vrt": f"vrt://{tmp_path}/secret.tif?bands=1", "zip": f"/vsizip/{tmp_path}/secret.zip/a.tif"}
    for name, href in {**hrefs, **inside}.items():
        save(tmp_path / f"{name}.json", item("i", {"red": {"href": href, "eo:bands": bands}}))
    assert f"/vsicurl/{server}{tmp_path}/secret.tif" in refused(rsr, "--allow-network", f"{server}/path.json")
    line = refused(rsr, "--allow-network", f"{server}/file.json")
    assert f"is on the network and names a local file, file://{tmp_path}/secret.tif" in line
    for name, href in inside.items():
        line = refused(rsr, "--allow-network", f"{server}/{name}.json")
        assert f"is on the network and names a local file, {href}" in line
    links = [{"rel": "item", "href": f"file://{tmp_path}/a.json"}, {"rel": "item", "href": "./path.json"}]
    save(tmp_path / "catalog.json", {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "links": links})
    done = rsr("tile", "--whole", "--keep-going", "--allow-network", f"{server}/catalog.json")
    first, second = messages(done)[:2]
    assert "names a local file" in first
    assert "/vsicurl/" in second  # the other one was tried


@pytest.mark.parametrize("name", ["../out", "{tmp}/out", "in/../../out"])
def test_the_id_of_an_item_leads_out_of_no_directory(tmp_path, write_raster, rsr, name):
    write_raster(tmp_path / "a.tif", numbers(1, 10))
    assets = {"red": {"href": "a.tif"}}
    save(tmp_path / "i.json", item(name.format(tmp=tmp_path), assets))
    before = {*tmp_path.rglob("*")}
    line = refused(rsr, "--chips", tmp_path / "chips", tmp_path / "i.json")
    assert "leads out of the directory of the chips" in line
    assert {*tmp_path.rglob("*")} == before


def test_addresses_as_they_are_found(tmp_path, write_raster, rsr):
    """With spaces as they are or encoded, and those that are none."""
    write_raster(tmp_path / "a b.tif", numbers(1, 10))
    for href in ("a b.tif", "./a%20b.tif", f"file://{tmp_path}/a%20b.tif", f"file://localhost{tmp_path}/a%20b.tif"):
        (tile,) = tiled(rsr, save(tmp_path / "i.json", item("i", {"red": {"href": href}})))
        assert tile["properties"]["source"] == {"red": f"{tmp_path}/a b.tif"}
    for href, reason in {
        "http://[::1": "has an address that cannot be read, http://[::1",
        f"file://server{tmp_path}/a%20b.tif": "names a file of another machine",
    }.items():
        assert reason in refused(rsr, save(tmp_path / "i.json", item("i", {"red": {"href": href}})))


def test_a_link_to_a_file_named_as_stdin(tmp_path, rsr):
    links = [{"rel": "item", "href": "-"}]
    save(tmp_path / "catalog.json", {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "links": links})
    done = rsr("tile", "--whole", "catalog.json", cwd=tmp_path, input=json.dumps(item("i", {})).encode())
    assert "links to ./-: no such file" in messages(done)[-1]


def test_facts_of_other_types(tmp_path, write_raster, rsr):
    """Numbers that are texts count; roles and types that are none do not."""
    write_raster(tmp_path / "a.tif", numbers(2000, 10))
    facts = {"scale": "0.0001", "offset": "-0.1", "nodata": "0"}
    for roles in (5, [{}], ["data", None]):
        asset = {"href": "a.tif", "roles": roles, "raster:bands": [facts]}
        (tile,) = tiled(rsr, save(tmp_path / "i.json", item("i", {"red": asset})))
        assert (value(tile, "red"), tile["properties"]["nodata"]) == (1000, 0)
