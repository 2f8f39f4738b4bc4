"""``rsr show``: what its figures show, read back from the files."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image
from scipy import ndimage
from support import embedding

from rsr_cli.core.figures.gallery import FRAMES

COLOURS = {name: tuple(bytes.fromhex(frame.colour[1:])) for name, frame in FRAMES.items()}
NASTY = "<script>alert('it')</script>&amp;"
HITS = ("both", "one", "other", "unlabelled")
WITH_QUERIES = ("hits.geojsonl", "--queries", "queries.geojsonl")


@pytest.fixture
def hits(gallery):
    return [json.loads(line) for line in (gallery / "hits.geojsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def show(rsr, gallery):
    """Return a function that runs rsr show in `gallery`, silently, and returns what it wrote; without env, once."""
    written = {}

    def run(name, *arguments, env=None):
        if env is None and (name, arguments) in written:
            return written[name, arguments]
        done = rsr("show", *arguments, "-o", name, "--overwrite", cwd=gallery, env=env)
        says = b"rsr show: queries are drawn without a thumbnail; pass --queries with the file of their records\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"" if "--queries" in arguments else says)
        found = (gallery / name).read_bytes()
        return found if env else written.setdefault((name, arguments), found)

    return run


@pytest.fixture(scope="module")
def page(show):
    return show("hits.html", *WITH_QUERIES).decode()


def expected(gallery, names, indexes, low, high):
    """Yield a row's thumbnails, made from the files alone: float (4, height, width), 0 to 255."""
    chips = []
    for name in names:
        with rasterio.open(gallery / f"{name}.tif") as raster:
            chips.append(raster.read(indexes).astype(float))
    limits = [np.percentile(chip[:, (chip > 0).all(0)], [low, high], axis=1) for chip in chips]
    lows, highs = np.swapaxes(np.sort(limits, axis=0), 0, 1)[..., None, None]
    lows, highs = lows[0], highs[3 * (len(chips) - 1) // 4]  # the third quartile, of two the darker one
    for chip in chips:
        mask = (chip > 0).all(0)
        colours = np.clip((chip - lows) / (highs - lows), 0, 1) * 255 * mask
        yield np.concatenate([colours, 255.0 * mask[None]])


def matches(thumbnail, wanted):
    np.testing.assert_allclose(thumbnail.transpose(2, 0, 1), wanted, atol=0.51)


def test_thumbnails_are_the_files_pixels_stretched_alike_in_a_row(gallery, page, show, parse_page):
    thumbnails = parse_page(page).thumbnails()
    assert len(thumbnails) == 10
    for thumbnail, wanted in zip(thumbnails[:5], expected(gallery, ["asked", *HITS], (3, 2, 1), 2, 98), strict=True):
        matches(thumbnail, wanted)
    assert (thumbnails[2][:4, :8, 3] == 0).all()
    other = show("other.html", "hits.geojsonl", "--rows", 1, "--bands", "nir08,red,green", "--stretch", "0,90")
    thumbnails = parse_page(other.decode()).thumbnails()
    assert len(thumbnails) == 4  # without --queries the query has none
    for thumbnail, wanted in zip(thumbnails, expected(gallery, HITS, (4, 3, 2), 0, 90), strict=True):
        matches(thumbnail, wanted)


def test_png_has_the_frames_and_the_pixels(gallery, show):
    with Image.open(io.BytesIO(show("hits.png", *WITH_QUERIES))) as image:
        assert set(image.info) <= {"dpi"}
        pixels = np.array(image.convert("RGB")).astype(int)
    boxes = {}
    for name, colour in COLOURS.items():
        parts, _ = ndimage.label((pixels == colour).all(-1))
        # The signs in the frames, and the key's frames, are smaller
        boxes[name] = [box for box in ndimage.find_objects(parts) if box[1].stop - box[1].start > 190]
        assert len(boxes[name]) == 1
    lefts = [boxes[name][0][1].start for name in ("all", "some", "none")]
    assert np.diff(lefts).tolist() == [224, 224]
    top, left = (side.start for side in boxes["some"][0])
    _, _, wanted, *_ = expected(gallery, ["asked", *HITS], (3, 2, 1), 2, 98)
    for row, col in ((5, 2), (9, 9), (14, 12), (6, 7)):
        # The frame's line, 2.5 points at 200 dpi, lies across the thumbnail's edge; a pixel is 12.5 wide
        at = pixels[round(top + 3.5 + 12.5 * (row + 0.5)), round(left + 3.5 + 12.5 * (col + 0.5))]
        np.testing.assert_allclose(at, wanted[:3, row, col], atol=1)
    assert (pixels[top + 20, left + 30] == 255).all()  # invalid


def test_order_and_number_of_hits(gallery, show, page, hits, parse_page, lines):
    shuffled = [hits[number] for number in (2, 6, 0, 3, 7, 5, 1, 4)]
    (gallery / "shuffled.geojsonl").write_bytes(lines(shuffled))
    assert show("a.html", "shuffled.geojsonl", *WITH_QUERIES[1:]).decode() == page
    table = parse_page(show("b.html", "shuffled.geojsonl", "-k", 2, "--rows", 1).decode()).rows
    assert [row[0] for row in table] == ["Rank", "1", "2"]


@pytest.mark.parametrize("name", ["hits.png", "hits.pdf", "hits.html"])
def test_the_user_s_settings_do_not_change_the_bytes(tmp_path, show, name):
    first = show(name, *WITH_QUERIES)
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsavefig.dpi: 50\nbackend: tkagg\naxes.facecolor: red\n")
    home = {"HOME": str(tmp_path), "MATPLOTLIBRC": str(tmp_path), "SOURCE_DATE_EPOCH": "1000", "TZ": "Asia/Tokyo"}
    assert show(name, *WITH_QUERIES, env=home) == first
    assert [path.name for path in tmp_path.iterdir()] == ["matplotlibrc"]
    assert b"CreationDate" not in first


ERRORS = [
    (["hits.geojsonl", "-o", "x.svg"], 2, "'x.svg' must end in .png, .pdf, .html or .tif, which chooses the format"),
    (["hits.geojsonl", "-o", "-"], 2, "'-' must end in"),
    (["--tsne", "hits.geojsonl", "-o", "x.png"], 2, "--tsne is now rsr plot;"),
    (["--sample", "30", "hits.geojsonl", "-o", "x.png"], 2, "--sample is now an option of rsr plot;"),
    (["hits.geojsonl", "-o", "x.png", "--seed=3"], 2, "--seed is now an option of rsr plot;"),
    (["hits.geojsonl"], 2, "missing option '-o'"),
    (["hits.geojsonl", "-o", "there.png"], 1, "there.png: exists already; pass --overwrite"),
    (
        ["hits.geojsonl", "-o", "x.png", "--bands", "red,green"],
        2,
        "--bands must name three bands, for red, green and blue, or one, for grey",
    ),
    (["hits.geojsonl", "-o", "x.png", "--bands", "red,green,b8a"], 2, "'b8a' is not a STAC common name"),
    (["hits.geojsonl", "-o", "x.png", "--stretch", "98,2"], 2, "--stretch must be two percentiles"),
    (
        ["hits.geojsonl", "-o", "x.png", "--bands", "swir22,red,pan"],
        1,
        "hits.geojsonl:1: bands swir22, pan are missing (has blue, green, red, nir08);"
        " choose one or three that it has, as in --bands blue,green,red",
    ),
    (
        ["queries.geojsonl", "-o", "x.png"],
        1,
        "queries.geojsonl:1: is not a hit: it has no query and rank; pass the records through rsr query",
    ),
    (
        ["twice.geojsonl", "-o", "x.html"],
        1,
        "twice.geojsonl:9: the query 'asked' has two hits of rank 1; pass the hits of one run at a time",
    ),
    (["empty.geojsonl", "-o", "x.html"], 1, "no hits came in, so there is nothing to draw"),
    (["empty.geojsonl", "--map", "-o", "x.png"], 1, "no hits came in, so there is nothing to draw"),
    (["empty.geojsonl", "--map", "-o", "x.tif"], 1, "no hits came in, so there is nothing to draw"),
    (["hits.geojsonl", "-o", "x.tif"], 2, "a .tif file is a map: pass --map"),
    (["hits.geojsonl", "--map", "-o", "x.html"], 2, "a page of HTML has maps: leave --map out"),
    (["hits.geojsonl", "-k", 51, "-o", "x.png"], 2, "-k is at most 50 without --map"),
    (["hits.geojsonl", "--bbox", "0,0,1,1", "-o", "x.png"], 2, "--bbox is not for a figure of thumbnails"),
    (["hits.geojsonl", "--map", "--bands", "red", "-o", "x.png"], 2, "--bands is not for maps"),
    (["hits.geojsonl", "--map", "--stretch", "1,2", "-o", "x.pdf"], 2, "--stretch is not for maps"),
    (["hits.geojsonl", "--map", "-k", 3, "-o", "x.tif"], 2, "-k is not for a raster"),
    (["hits.geojsonl", "--map", "--bbox", "0,1,1,0", "-o", "x.png"], 2, "is not west,south,east,north in degrees"),
    (["hits.geojsonl", "--map", "--bbox", "0,1,nan,2", "-o", "x.png"], 2, "is not west,south,east,north in degrees"),
    (["hits.geojsonl", "--within", "there.png", "-o", "x.html"], 2, "there.png: has no polygon"),
    (
        ["hits.geojsonl", "--map", "-o", "x.tif"],
        1,
        "pass the tiles of one scene, cut at a stride: rsr query --datetime or --filter selects a scene",
    ),
]


@pytest.fixture(scope="module")
def flawed(gallery):
    """Add hits that cannot be drawn to `gallery`."""
    lines = (gallery / "hits.geojsonl").read_text().splitlines(keepends=True)
    (gallery / "twice.geojsonl").write_text("".join([*lines, lines[0]]))
    (gallery / "empty.geojsonl").touch()
    (gallery / "gone.geojsonl").write_text(
        "".join([re.sub(r'"[^"]*both.tif"', '"nowhere.tif"', lines[0]), *lines[1:4]])
    )
    (gallery / "there.png").touch()
    return gallery


RELATIVE = "relative paths start in the directory where rsr tile ran: run this there, or tile absolute paths"


@pytest.mark.parametrize(("arguments", "status", "message"), ERRORS)
def test_errors_are_one_line_and_leave_no_file(rsr, flawed, arguments, status, message):
    before = sorted(flawed.iterdir())
    done = rsr("show", *arguments, cwd=flawed)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert sorted(flawed.iterdir()) == before


def test_hits_whose_files_are_gone_have_no_thumbnail(rsr, flawed, parse_page):
    done = rsr("show", "gone.geojsonl", "--queries", "queries.geojsonl", "-o", "kept.html", "--overwrite", cwd=flawed)
    says = "rsr show: 1 tile is drawn without a thumbnail: gone.geojsonl:1: nowhere.tif: no such file"
    assert (done.returncode, done.stderr.decode()) == (0, f"{says}; {RELATIVE}\n")
    parsed = parse_page((flawed / "kept.html").read_text())
    assert (parsed.words.count("no thumbnail"), len(parsed.thumbnails())) == (1, 4)
    assert [row[2] for row in parsed.rows] == ["Id", "both", "one", NASTY, "unlabelled"]
    assert [row[0] for row in parsed.rows] == ["Rank", "1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["moved.png", "moved.html"])
def test_paths_of_another_directory_are_explained(rsr, gallery, hits, lines, tmp_path, name):
    """Relative paths after a change of the directory, damaged files, and absolute paths of files that are gone."""
    for hit, source in zip(hits, ("both.tif", "one.tif", "/gone.tif", "damaged.tif"), strict=False):
        hit["properties"]["source"] = source
    (tmp_path / "damaged.tif").write_bytes(b"II*\0" + bytes(40))
    (tmp_path / "hits").write_bytes(lines(hits[:4]))
    done = rsr("show", "hits", "--queries", gallery / "queries.geojsonl", "-o", name, cwd=tmp_path)
    says = "4 tiles are drawn without a thumbnail, such as hits:1: both.tif: no such file"
    assert (done.returncode, done.stderr.decode()) == (0, f"rsr show: {says}; {RELATIVE}\n")
    (tmp_path / "hits").write_bytes(lines(hits[2:4]))
    done = rsr("show", "hits", "--queries", gallery / "queries.geojsonl", "-o", name, "--overwrite", cwd=tmp_path)
    says = "2 tiles are drawn without a thumbnail, such as hits:1: /gone.tif: no such file\n"
    assert (done.returncode, done.stderr.decode()) == (0, f"rsr show: {says}")


def test_hits_without_pixels_are_drawn_in_silence(rsr, gallery, hits, lines, tmp_path):
    """As of embeddings that were made elsewhere: neither a source nor labels."""
    for hit in hits:
        hit["properties"] = {key: hit["properties"][key] for key in ("query", "rank", "distance")}
    (tmp_path / "hits").write_bytes(lines(hits))
    for name in ("x.html", "x.png", "x.pdf"):
        done = rsr("show", "hits", "-o", name, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (tmp_path / name).stat().st_size


@pytest.fixture(scope="module")
def radar(rsr, tmp_path_factory, write_raster, torch):
    """Hits of tiles of radar in dB, and the records of their queries; and the files' pixels by id."""
    folder = tmp_path_factory.mktemp("radar")
    pixels = {name: np.random.default_rng(i).normal((-10, -18), 3, (8, 8, 2)).T for i, name in enumerate("abc")}
    for name, values in pixels.items():
        write_raster(folder / f"{name}.tif", values.astype(np.float32))
    done = rsr("tile", "--whole", "--sensor", "sentinel1", "a.tif", "b.tif", "c.tif", "-o", "tiles", cwd=folder)
    assert done.returncode == 0, done.stderr
    model = "rcf:bands=vv,vh:mean=-10,-18:std=3,3"
    assert rsr("embed", "--model", model, "tiles", "-o", "embedded", cwd=folder).returncode == 0
    assert rsr("index", "embedded", "-o", "i.rsr", cwd=folder).returncode == 0
    assert rsr("query", "i.rsr", "--id", "a", "-o", "hits", cwd=folder).returncode == 0
    return folder, pixels


@pytest.mark.parametrize(("bands", "of"), [("vv", (0, 0, 0)), ("vh,vv,vh", (1, 0, 1)), ("vh,vh,vh", (1, 1, 1))])
def test_radar_is_drawn_in_the_bands_that_it_has(rsr, radar, parse_page, bands, of):
    folder, pixels = radar
    done = rsr("show", "hits", "--queries", "tiles", "--bands", bands, "-o", "x.html", "--overwrite", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    page = parse_page((folder / "x.html").read_text())
    note = f"Thumbnails: {', '.join(bands.split(','))}; stretched alike per row, percentiles 2 to 98"
    assert note in page.words
    ids = ["a", *(row[2] for row in page.rows[1:])]
    chips = [pixels[name][list(of)].astype(np.float32) for name in ids]
    limits = [np.percentile(chip.reshape(3, -1), [2, 98], axis=1) for chip in chips]
    lows, highs = np.swapaxes(np.sort(limits, axis=0), 0, 1)[..., None, None]
    lows, highs = lows[0], highs[3 * (len(chips) - 1) // 4]
    assert (lows < highs).all()
    assert len(page.thumbnails()) == len(chips) == 4
    for thumbnail, chip in zip(page.thumbnails(), chips, strict=True):
        matches(thumbnail[..., :3], np.clip((chip - lows) / (highs - lows), 0, 1) * 255)


@pytest.mark.parametrize("name", ["x.png", "x.pdf", "y.html"])
def test_tiles_without_the_colours_are_drawn_without_a_thumbnail(rsr, radar, parse_page, name):
    folder, _ = radar
    done = rsr("show", "hits", "--queries", "tiles", "-o", name, cwd=folder)
    why = "hits:1: bands red, green, blue are missing (has vv, vh); choose one or three that it has, as in --bands vv"
    says = f"rsr show: 4 tiles are drawn without a thumbnail, such as tiles:1: {why.partition(': ')[2]}\n"
    assert (done.returncode, done.stderr.decode()) == (0, says)
    if name == "y.html":
        page = parse_page((folder / name).read_text())
        assert (page.words.count("no thumbnail"), page.thumbnails()) == (4, [])
        assert not any("Thumbnails" in word for word in page.words)
        assert sorted(row[2] for row in page.rows[1:]) == ["a", "b", "c"]


def test_tiles_with_other_bands_and_files_that_are_gone_are_counted_each(rsr, radar, hits, gallery, lines, tmp_path):
    """A mixed archive: two of the tiles have the colours, one of which is gone, and another is radar."""
    folder, _ = radar
    found = [json.loads(line) for line in (folder / "hits").read_text().splitlines()][:1] + hits[:2]
    for number, (hit, source) in enumerate(
        zip(found, (folder / "a.tif", "/gone.tif", gallery / "one.tif"), strict=True)
    ):
        hit["properties"] |= {"source": str(source), "query": "q", "rank": number + 1}
    (tmp_path / "hits").write_bytes(lines(found))
    (tmp_path / "none").write_bytes(lines([{"type": "Feature", "id": "q", "properties": {}}]))
    done = rsr("show", "hits", "--queries", "none", "-o", "x.html", cwd=tmp_path)
    first, second = done.stderr.decode().splitlines()
    assert (done.returncode, first) == (
        0,
        "rsr show: 1 tile is drawn without a thumbnail: hits:2: /gone.tif: no such file",
    )
    assert second.startswith(
        "rsr show: 1 tile is drawn without a thumbnail: hits:1: bands red, green, blue are missing"
    )
    done = rsr("show", "hits", "--bands", "red,green,blue", "-o", "y.html", cwd=tmp_path)
    assert (done.returncode, b"hits:1: bands red, green, blue are missing" in done.stderr) == (1, True)


def test_a_record_that_does_not_state_what_to_read_is_an_error(rsr, hits, lines, tmp_path):
    del hits[1]["properties"]["window"]
    (tmp_path / "hits").write_bytes(lines(hits))
    done = rsr("show", "hits", "-o", "x.png", cwd=tmp_path)
    assert (done.returncode, b"hits:2: is not a tile: source, bands, window" in done.stderr) == (1, True)
    done = rsr("show", "hits", "-o", "x.png", "--keep-going", cwd=tmp_path)
    assert done.returncode == 3


def test_columns_of_others_with_the_names_of_a_tile_state_no_pixels(rsr, hits, lines, tmp_path):
    for hit in hits:
        hit["properties"] |= {"source": "Sentinel-2", "bands": "all", "window": "1 x 1"}
    (tmp_path / "hits").write_bytes(lines(hits))
    done = rsr("show", "hits", "-o", "x.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    Image.open(tmp_path / "x.png").verify()


def test_queries_are_a_table_with_ids_of_its_own_name(rsr, gallery, tmp_path):
    """They are found, and their labels drawn where the hits state none."""
    names = {json.loads(line)["properties"]["query"] for line in (gallery / "hits.geojsonl").open()}
    pd.DataFrame({"plot": sorted(names), "labels": [["of the table"]] * len(names)}).to_parquet(tmp_path / "q.parquet")
    done = rsr("show", "hits.geojsonl", "--queries", tmp_path / "q.parquet", "--id-column", "plot", "-o",
               tmp_path / "x.html", cwd=gallery)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    done = rsr("show", "hits.geojsonl", "--id-column", "plot", "-o", tmp_path / "y.html", cwd=gallery)
    assert (done.returncode, b"--id-column needs --queries with a table" in done.stderr) == (2, True)


def test_queries_that_are_not_given_are_counted(rsr, gallery):
    done = rsr("show", "hits.geojsonl", "--queries", "hits.geojsonl", "-o", "u.png", cwd=gallery)
    assert (done.returncode, done.stderr.decode()) == (
        0,
        "rsr show: 2 queries are not in hits.geojsonl, so no thumbnail is drawn for them\n",
    )


def test_odd_records_are_drawn(rsr, gallery, hits, lines):
    """Long names, formulas, foreign scripts, a row without a valid pixel, a wide thumbnail."""
    hits[0]["id"] = "W" * 300
    hits[0]["properties"]["labels"] = ["M" * 300, "$\\frac{1}{2}$"]
    hits[1]["properties"] |= {"labels": ["\N{CJK UNIFIED IDEOGRAPH-68EE}"], "window": [0, 0, 8, 4]}
    del hits[1]["properties"]["distance"]
    hits[1]["properties"]["query"] = "of nothing valid"
    (gallery / "odd.geojsonl").write_bytes(lines([*hits[:2], hits[5]]))
    done = rsr("show", "odd.geojsonl", "-o", "odd.png", cwd=gallery)
    assert (done.returncode, done.stderr.decode()) == (
        0,
        "rsr show: the figure's font lacks 1 character, drawn as boxes; an HTML page shows all\n"
        "rsr show: queries are drawn without a thumbnail; pass --queries with the file of their records\n",
    )


@pytest.fixture(scope="module")
def scene(rsr, tmp_path_factory, write_raster, cut, lines):
    """Tiles of a scene of 5 x 6, which overlap, in an index `i.rsr`, with the vectors as float64 by id."""
    folder = tmp_path_factory.mktemp("map")
    tiles = cut(write_raster(folder / "s.tif", np.ones((60, 70), np.uint8)), bands=["red"], size=20, stride_px=10)
    rng = np.random.default_rng(3)
    vectors = {tile["id"]: rng.normal(size=8).astype(np.float32) for tile in tiles}
    for tile in tiles:
        tile["properties"]["embedding"] = embedding(vectors[tile["id"]])
    (folder / "tiles").write_bytes(lines(tiles))
    done = rsr("index", "--metric", "l2", "tiles", "-o", "i.rsr", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, {name: vector.astype(float) for name, vector in vectors.items()}


def test_a_similarity_map_has_the_distance_of_every_tile(rsr, scene, tmp_path):
    folder, vectors = scene
    hits = rsr("query", "i.rsr", "--id", "s_20_30", "--radius", "inf", cwd=folder).stdout
    done = rsr("show", "--map", "-o", "x.tif", input=hits, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    distances = {hit["id"]: hit["properties"]["distance"] for hit in map(json.loads, hits.splitlines())}
    assert distances.keys() == vectors.keys()
    with rasterio.open(tmp_path / "x.tif") as raster, rasterio.open(folder / "s.tif") as opened:
        values = raster.read(1)
        assert (values.shape, raster.crs, raster.res) == ((5, 6), opened.crs, (100, 100))
        for name, vector in vectors.items():
            column, row = map(int, name.split("_")[1:])
            i, j = raster.index(*opened.transform @ (column + 10, row + 10))
            assert values[i, j] == np.float32(distances[name])
            np.testing.assert_allclose(values[i, j], np.linalg.norm(vector - vectors["s_20_30"]), rtol=1e-5)
    first = (tmp_path / "x.tif").read_bytes()
    assert rsr("show", "--map", "-o", "x.tif", input=hits, cwd=tmp_path).returncode == 1
    done = rsr("show", "--map", "-o", "x.tif", "--overwrite", input=hits, cwd=tmp_path)
    assert (done.returncode, (tmp_path / "x.tif").read_bytes()) == (0, first)


def test_hits_that_end_early_leave_pixels_without_a_distance(rsr, scene, tmp_path):
    folder, _ = scene
    hits = rsr("query", "i.rsr", "--id", "s_20_30", "-k", 25, cwd=folder).stdout
    done = rsr("show", "--map", "-o", "x.tif", input=hits, cwd=tmp_path)
    with rasterio.open(tmp_path / "x.tif") as raster:
        values = raster.read(1)
    assert np.isfinite(values).sum() == 25
    says = f"rsr show: {values.size - 25} of {values.size} pixels have no hit and are NaN"
    assert (done.returncode, done.stderr.decode().startswith(says)) == (0, True)


def test_hits_of_several_queries_are_named(rsr, scene, tmp_path):
    folder, _ = scene
    hits = rsr("query", "i.rsr", "--id", "s_20_30", "--id", "s_0_0", "-k", 4, cwd=folder).stdout
    done = rsr("show", "--map", "-o", "x.tif", input=hits, cwd=tmp_path)
    says = "<stdin>:5: is a hit of the query 's_0_0', and the first one is of 's_20_30'; pass the hits of one, as grep"
    assert (done.returncode, says in done.stderr.decode(), len(done.stderr.splitlines())) == (1, True, 1)
    assert list(tmp_path.iterdir()) == []
    assert rsr("show", "--map", "-o", "x.png", input=hits, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["x.png", "x.pdf", "x.html"])
def test_maps_of_areas_with_the_filter(rsr, scene, tmp_path, name):
    folder, _ = scene
    areas = rsr("query", "i.rsr", "--id", "s_20_30", "-k", 9, "--merge", cwd=folder).stdout
    assert any(len(area["properties"]["tiles"]) > 1 for area in map(json.loads, areas.splitlines()))
    box = json.loads(areas.splitlines()[0])["bbox"]
    polygon = {"type": "Polygon", "coordinates": [[[16, 47], [17, 47], [17, 48], [16, 47]]]}
    (tmp_path / "lake.geojson").write_text(json.dumps(polygon))
    flags = ["--bands", "red"] if name == "x.html" else ["--map"]
    flags += ["--bbox", ",".join(map(str, box)), "--within", "lake.geojson", "--queries", folder / "tiles", "-o", name]
    done = rsr("show", *flags, input=areas, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    drawn = (tmp_path / name).read_bytes()
    if name == "x.html":
        assert {">--bbox<", ">lake.geojson<"} <= set(re.findall(r">[^<>]+<", drawn.decode()))
    env = {"HOME": str(tmp_path / "home"), "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1000"}
    assert rsr("show", *flags, "--overwrite", input=areas, cwd=tmp_path, env=env).returncode == 0
    assert (tmp_path / name).read_bytes() == drawn
