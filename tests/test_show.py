"""``rsr show``: what the figures show, read back from the files, and the page in a real browser."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import rasterio
import support
from matplotlib import colormaps
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist
from support import code, embedding, feature

from rsr_cli.core.errors import Skips
from rsr_cli.core.figures.gallery import FRAMES, Hit, Item, Row
from rsr_cli.core.figures.plots import draw_map, draw_points
from rsr_cli.core.figures.projection import Points, project
from rsr_cli.core.records.space import Space

COLOURS = {name: tuple(bytes.fromhex(frame.colour[1:])) for name, frame in FRAMES.items()}
NASTY = "<script>alert('it')</script>&amp;"
# id -> labels, and how they agree with the query's, forest and lake
HITS = {
    "both": (["lake", "forest", "road"], "all"),
    "one": (["lake", "road"], "some"),
    "other": ([NASTY], "none"),
    "unlabelled": (None, None),
}
WITH_QUERIES = ("hits.geojsonl", "--queries", "queries.geojsonl")
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


class Page(HTMLParser):
    """What a page holds: its elements (name, attributes) and its text."""

    VOID = ("img", "meta", "br")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words, self.rows = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag, name=""):
        return [
            attrs for found, attrs in self.elements if found == tag and name in [*attrs.get("class", "").split(), ""]
        ]

    def pictures(self):
        urls = [attrs["src"] for attrs in self.all("img")]
        assert all(url.startswith("data:image/png;base64,") for url in urls)
        return [np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def dump(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_raster, cut):
    """Hits of two queries, the queries, and the chips: 16 x 16 pixels, four bands, one chip partly nodata."""
    folder = tmp_path_factory.mktemp("show")
    random = np.random.default_rng(0)
    records = {}
    for number, name in enumerate(["asked", *HITS, "plain"]):
        pixels = random.integers(500, 3000, (4, 16, 16), dtype=np.uint16) + 400 * number
        if name == "one":
            pixels[:, :4, :8] = 0
        place = {"transform": rasterio.Affine(10, 0, 600000 + 1e4 * number, 0, -10, 5300040)}
        path = write_raster(folder / f"{name}.tif", pixels, names=("blue", "green", "red", "nir08"), nodata=0, **place)
        records[name] = cut(path)[0] | {"id": name}
    records["asked"]["properties"]["labels"] = ["forest", "lake"]
    dump(folder / "queries.geojsonl", [records["plain"], records["asked"]])
    hits = []
    for query, labels in (("asked", ["forest", "lake"]), ("plain", None)):
        for rank, (name, (own, _)) in enumerate(HITS.items(), 1):
            added = {"query": query, "rank": rank, "distance": 2.5 * rank, "labels": own, "query_labels": labels}
            known = {key: value for key, value in added.items() if value is not None}
            hits.append(records[name] | {"properties": records[name]["properties"] | known})
    hits[2] |= {"id": NASTY}
    dump(folder / "hits.geojsonl", hits)
    return folder


@pytest.fixture
def hits(folder):
    return [json.loads(line) for line in (folder / "hits.geojsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def show(rsr, folder):
    """Run rsr show in the folder, expect it to be silent, and give what it wrote; without env, once a call."""
    written = {}

    def run(name, *arguments, env=None):
        if env is None and (name, arguments) in written:
            return written[name, arguments]
        done = rsr("show", *arguments, "-o", name, "--overwrite", cwd=folder, env=env)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        found = (folder / name).read_bytes()
        return found if env else written.setdefault((name, arguments), found)

    return run


@pytest.fixture(scope="module")
def page(show):
    return show("hits.html", *WITH_QUERIES).decode()


def expected(folder, names, indexes, low, high):
    """Draw a row's pictures from the files alone: uint8 (4, height, width) each."""
    chips = []
    for name in names:
        with rasterio.open(folder / f"{name}.tif") as raster:
            chips.append(raster.read(indexes).astype(float))
    valid = np.concatenate([chip[:, (chip > 0).all(0)] for chip in chips], axis=1)
    lows, highs = (np.percentile(valid, share, axis=1)[:, None, None] for share in (low, high))
    for chip in chips:
        mask = (chip > 0).all(0)
        colours = np.clip((chip - lows) / (highs - lows), 0, 1) * 255 * mask
        yield np.concatenate([colours, 255.0 * mask[None]])


def matches(picture, wanted):
    np.testing.assert_allclose(picture.transpose(2, 0, 1), wanted, atol=0.51)


def test_pictures_are_the_files_pixels_stretched_alike_in_a_row(folder, page, show):
    pictures = Page(page).pictures()
    assert len(pictures) == 10
    for picture, wanted in zip(pictures[:5], expected(folder, ["asked", *HITS], (3, 2, 1), 2, 98), strict=True):
        matches(picture, wanted)
    assert (pictures[2][:4, :8, 3] == 0).all()
    other = show("other.html", "hits.geojsonl", "--rows", 1, "--bands", "nir08,red,green", "--stretch", "0,90")
    pictures = Page(other.decode()).pictures()
    assert len(pictures) == 4  # without --queries the query has none
    for picture, wanted in zip(pictures, expected(folder, HITS, (4, 3, 2), 0, 90), strict=True):
        matches(picture, wanted)


def test_page_tells_how_labels_agree(page):
    parsed = Page(page)
    frames = [attrs["class"].split()[1:] for attrs in parsed.all("div", "frame")]
    assert frames == [[], ["all"], ["some"], ["none"], []] + [[]] * 5
    assert len(parsed.all("section")) == 2
    text = "".join(parsed.words)
    assert [text.count(sign) for sign in ("\N{CHECK MARK}", "\N{BALLOT X}", "1/2")] == [2, 2, 1]  # with the key's
    table = [row for row in parsed.rows if len(row) == 6]
    assert table[0] == ["Rank", "Distance", "Id", "Labels", "Shared", "Time"]
    assert table[1:5] == [
        ["1", "2.5", "both", "lake; forest; road", "2", ""],
        ["2", "5", "one", "lake; road", "1", ""],
        ["3", "7.5", NASTY, NASTY, "0", ""],
        ["4", "10", "unlabelled", "", "", ""],
    ]


def test_page_holds_everything_and_runs_nothing_of_the_records(page):
    parsed = Page(page)
    names = [name for name, _ in parsed.elements]
    assert names.count("script") == 1
    assert not {"link", "iframe", "object", "base"} & set(names)
    for _, attrs in parsed.elements:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if not name.startswith("xmlns"):
                assert not re.match(r"\w*:?//|javascript:", value or ""), (name, value)
    assert not re.search(r"@import|url\((?!#)", page)
    policy = next(attrs["content"] for attrs in parsed.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_png_has_the_frames_and_the_pixels(folder, show):
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
    _, _, wanted, *_ = expected(folder, ["asked", *HITS], (3, 2, 1), 2, 98)
    for row, col in ((5, 2), (9, 9), (14, 12), (6, 7)):
        # The frame's line, 2.5 points at 200 dpi, lies across the picture's edge; a pixel is 12.5 wide
        at = pixels[round(top + 3.5 + 12.5 * (row + 0.5)), round(left + 3.5 + 12.5 * (col + 0.5))]
        np.testing.assert_allclose(at, wanted[:3, row, col], atol=1)
    assert (pixels[top + 20, left + 30] == 255).all()  # invalid


def test_order_and_number_of_hits(folder, show, page, hits):
    shuffled = [hits[number] for number in (2, 6, 0, 3, 7, 5, 1, 4)]
    dump(folder / "shuffled.geojsonl", shuffled)
    assert show("a.html", "shuffled.geojsonl", *WITH_QUERIES[1:]).decode() == page
    table = Page(show("b.html", "shuffled.geojsonl", "-k", 2, "--rows", 1).decode()).rows
    assert [row[0] for row in table] == ["Rank", "1", "2"]


@pytest.mark.parametrize("name", ["hits.png", "hits.pdf", "hits.html"])
def test_same_bytes_whatever_the_user_s_settings(tmp_path, show, name):
    first = show(name, *WITH_QUERIES)
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsavefig.dpi: 50\nbackend: tkagg\naxes.facecolor: red\n")
    home = {"HOME": str(tmp_path), "MATPLOTLIBRC": str(tmp_path), "SOURCE_DATE_EPOCH": "1000", "TZ": "Asia/Tokyo"}
    assert show(name, *WITH_QUERIES, env=home) == first
    assert [path.name for path in tmp_path.iterdir()] == ["matplotlibrc"]
    assert b"CreationDate" not in first


ERRORS = [
    (["hits.geojsonl", "-o", "x.svg"], 2, "'x.svg' does not end in .png or .pdf or .html"),
    (["hits.geojsonl", "-o", "-"], 2, "'-' does not end in"),
    (["--tsne", "hits.geojsonl", "-o", "x.html"], 2, "does not end in .png or .pdf;"),
    (["hits.geojsonl"], 2, "Missing option '-o'"),
    (["hits.geojsonl", "-o", "there.png"], 1, "there.png: exists already; pass --overwrite"),
    (["--tsne", "-k", "3", "--queries", "x", "-o", "x.png"], 2, "--queries, -k does not go with --tsne"),
    (["--seed", "3", "-o", "x.png"], 2, "--seed needs --tsne"),
    (["hits.geojsonl", "-o", "x.png", "--bands", "red,green"], 2, "--bands names three bands"),
    (["hits.geojsonl", "-o", "x.png", "--bands", "red,green,b8a"], 2, "'b8a' is not a STAC common name"),
    (["hits.geojsonl", "-o", "x.png", "--stretch", "98,2"], 2, "--stretch is two percentiles"),
    (
        ["hits.geojsonl", "-o", "x.png", "--bands", "swir22,red,pan"],
        1,
        "hits.geojsonl:1: band swir22 pan is missing (has blue green red nir08); name three that are there",
    ),
    (["queries.geojsonl", "-o", "x.png"], 1, "queries.geojsonl:1: is not a hit: it has no query and rank"),
    (["twice.geojsonl", "-o", "x.html"], 1, "twice.geojsonl:9: the query 'asked' has two hits of rank 1;"),
    (["empty.geojsonl", "-o", "x.html"], 1, "no hits came in, and there is nothing to draw"),
    (["empty.geojsonl", "--tsne", "-o", "x.png"], 1, "t-SNE needs 3 records or more, and 0 came in"),
    (["hits.geojsonl", "--tsne", "-o", "x.png"], 1, "hits.geojsonl:1: has no embedding; pass the stream through rsr"),
    (["gone.geojsonl", "-o", "x.html"], 1, "gone.geojsonl:1: nowhere.tif: "),
]


@pytest.fixture(scope="module")
def flawed(folder):
    """Streams that cannot be drawn."""
    lines = (folder / "hits.geojsonl").read_text().splitlines(keepends=True)
    (folder / "twice.geojsonl").write_text("".join([*lines, lines[0]]))
    (folder / "empty.geojsonl").touch()
    (folder / "gone.geojsonl").write_text("".join([re.sub(r'"[^"]*both.tif"', '"nowhere.tif"', lines[0]), *lines[1:4]]))
    (folder / "there.png").touch()
    return folder


@pytest.mark.parametrize(("arguments", "status", "message"), ERRORS)
def test_errors_are_one_line_and_leave_no_file(rsr, flawed, arguments, status, message):
    before = sorted(flawed.iterdir())
    done = rsr("show", *arguments, cwd=flawed)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert sorted(flawed.iterdir()) == before


def test_keep_going_leaves_a_grey_cell(rsr, flawed):
    done = rsr("show", "gone.geojsonl", "-o", "kept.html", "--keep-going", cwd=flawed)
    assert done.returncode == 3
    assert b"gone.geojsonl:1: nowhere.tif: " in done.stderr
    parsed = Page((flawed / "kept.html").read_text())
    assert (parsed.words.count("unreadable"), len(parsed.pictures())) == (1, 3)
    assert [row[2] for row in parsed.rows] == ["Id", "both", "one", NASTY, "unlabelled"]


def test_queries_that_are_not_given_are_told(rsr, folder):
    done = rsr("show", "hits.geojsonl", "--queries", "hits.geojsonl", "-o", "u.png", cwd=folder)
    assert (done.returncode, done.stderr.decode()) == (
        0,
        "rsr show: 2 of the queries are not in hits.geojsonl, and have no picture\n",
    )


def test_all_that_is_odd_is_drawn(rsr, folder, hits):
    """Long names, formulas, foreign scripts, a picture with no valid pixel in its row, a wide one."""
    hits[0]["id"] = "W" * 300
    hits[0]["properties"]["labels"] = ["M" * 300, "$\\frac{1}{2}$"]
    hits[1]["properties"] |= {"labels": ["\N{CJK UNIFIED IDEOGRAPH-68EE}"], "window": [0, 0, 8, 4]}
    del hits[1]["properties"]["distance"]
    hits[1]["properties"]["query"] = "of nothing valid"
    dump(folder / "odd.geojsonl", [*hits[:2], hits[5]])
    done = rsr("show", "odd.geojsonl", "-o", "odd.png", cwd=folder)
    assert (done.returncode, done.stderr.decode()) == (
        0,
        "rsr show: 1 characters are not in the figure's font, and stand as boxes; an .html has them\n",
    )


def browse(page, *arguments):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,900"]
    command = ["chromium", *options, f"--user-data-dir={page.parent / 'profile'}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@needs_chromium
def test_tables_sort_and_hits_light_up_in_a_browser(tmp_path, folder, show, hits):
    for hit, distance, time in zip(hits, (30, 4, None, 100), ("2020", "", "2019", "2021"), strict=False):
        hit["properties"] |= {"distance": distance, "datetime": time}
    dump(folder / "unsorted.geojsonl", hits[:4])
    text = show("unsorted.html", "unsorted.geojsonl").decode()
    click = """<script>
        const order = () => Array.from(document.querySelectorAll("tbody tr"), row => row.cells[0].textContent).join("");
        document.title = [1, 1, 5, 5, 2, 4].map(number => {
            document.querySelectorAll("th button")[number].click();
            return order();
        }).join();
        document.querySelector("tbody tr").dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
        document.title += " " + Array.from(document.querySelectorAll(".lit"), lit => lit.tagName).sort();
    </script>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{click}</body>"))
    told = re.search("<title>(.*)</title>", browse(tmp_path / "page.html", "--dump-dom"))[1]
    # By distance (30, 4, none, 100) there and back, time (none is last), id, and shared labels; then what a hit's line,
    # under the mouse, lights up: its picture, itself, and its outline and point on the map
    assert told == "2143,4123,3142,4132,3124,3214 FIGURE,TR,g,g"


@needs_chromium
def test_page_renders_in_a_browser(tmp_path, page):
    (tmp_path / "page.html").write_text(page)
    browse(tmp_path / "page.html", f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as image:
        pixels = np.array(image.convert("RGB"))
    assert pixels.shape == (900, 1400, 3)
    lefts = []
    for name in ("all", "some", "none"):
        parts, _ = ndimage.label((pixels == COLOURS[name]).all(-1))
        boxes = [box for box in ndimage.find_objects(parts) if [side.stop - side.start for side in box] == [100, 100]]
        assert len(boxes) == 1
        lefts.append(boxes[0][1].start)
    assert np.diff(lefts).tolist() == [112, 112]


def place(geometry, rank=0, agreement=None):
    record = {"type": "Feature", "id": f"i{rank}", "geometry": geometry, "properties": {}}
    common = {"name": f"i{rank}", "record": record, "place": "", "labels": None}
    return Hit(**common, rank=rank, distance=None, agreement=agreement) if rank else Item(**common)


def square(lon, lat, half=0.5):
    ring = [[lon - half, lat - half], [lon + half, lat - half], [lon + half, lat + half], [lon - half, lat + half]]
    return [[*ring, ring[0]]]


def test_map_goes_across_the_antimeridian():
    halves = [[[[179, 1], [180, 1], [180, 2], [179, 2], [179, 1]]], [[[-180, 1], [-179, 1], [-179, 2], [-180, 1]]]]
    hits = [
        place({"type": "MultiPolygon", "coordinates": halves}, 1, "all"),
        place({"type": "Polygon", "coordinates": square(-176, 4)}, 2, "none"),
        place({"type": "Point", "coordinates": [177, 3]}, 3),
        place(None, 4),
        place({"type": "Polygon"}, 5),
        place({"type": "Polygon", "coordinates": square(600000, 5300000)}, 6),
    ]
    drawn, lost = draw_map(Row(place({"type": "Polygon", "coordinates": square(178, 2)}), hits), 7)
    assert [item.name for item in lost] == ["i4", "i5", "i6"]
    groups = dict(re.findall(r'<g id="hit-7-([\d-]+)">(.*?)</g>', drawn, re.DOTALL))
    assert set(groups) == {"0", "0-0", "1", "1-0", "1-1", "2", "2-0", "3", "3-0"}
    middles = {}
    for name, group in groups.items():
        if "-" in name:
            path = re.findall(r"[ML] ([\d.]+) ([\d.]+)", group)
            middles[name] = np.array(path, float).mean(0)[0]
    assert sorted(middles, key=middles.get) == ["3-0", "0-0", "1-0", "1-1", "2-0"]
    assert FRAMES["none"].colour in groups["2-0"]
    assert {"178\N{DEGREE SIGN}E", "178\N{DEGREE SIGN}W", "180\N{DEGREE SIGN}W"} <= set(
        re.findall(r">([\d.]+°\w?)<", drawn)
    )
    assert draw_map(Row(place(None), hits[3:]), 0)[0] == ""


def test_map_keeps_the_order_of_longitudes():
    lons = np.random.default_rng(0).uniform(-4, 12, 8).round(7).tolist()
    hits = [place({"type": "Polygon", "coordinates": square(lon, 50)}, rank) for rank, lon in enumerate(lons, 1)]
    for first in range(8):
        drawn, _ = draw_map(Row(place(None), hits[first:]), 0)
        found = re.findall(r'<g id="hit-0-(\d)-0">.*?M ([\d.]+) ', drawn, re.DOTALL)
        order = [int(rank) for rank, _ in sorted(found, key=lambda pair: float(pair[1]))]
        assert order == [rank + 1 for rank in np.argsort(lons) if rank >= first]


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


def test_codes_are_compared_by_hamming_s_distance():
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


def test_every_record_may_be_drawn():
    vectors = np.random.default_rng(2).standard_normal((2000, 2)).astype(np.float32)
    names = [[str(number)] for number in range(2000)]
    drawn = [int(labels[0]) for labels in project(batches(vectors, names), 60, 3, Skips()).labels]
    assert len(set(drawn)) == 60
    assert 700 < np.mean(drawn) < 1300
    again = [int(labels[0]) for labels in project(batches(vectors, names), 60, 4, Skips()).labels]
    assert drawn != again


def test_many_classes_and_none():
    labels = [(f"c{number}",) for number in range(25)] + [("c3", "c4"), (), ()]
    places = np.random.default_rng(0).standard_normal((28, 2)).astype(np.float32)
    space = Space("embedding", 8, "float32", "f", {"model": "m"})
    points = Points(places, labels, space)
    drawn = draw_points(points, "png")
    with Image.open(io.BytesIO(drawn)) as image:
        assert {"Software", "Creation Time"}.isdisjoint(image.info)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    tab20 = {tuple(round(255 * part) for part in colormaps["tab20"](number)[:3]) for number in range(20)}
    assert tab20 <= colours
    assert (153, 153, 153) in colours  # the other classes, and none
    labelled = Points(places[:26], labels[:26], space)
    with Image.open(io.BytesIO(draw_points(labelled, "png"))) as image:
        assert (153, 153, 153) in {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert draw_points(points, "pdf") == draw_points(points, "pdf")


def test_tsne_plot_is_the_same_for_a_seed(rsr, tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "in").write_bytes(
        b"".join(
            json.dumps({"type": "Feature", "id": n, "geometry": None, "properties": properties}).encode() + b"\n"
            for n in range(40)
            for properties in [{"embedding": embedding(random.standard_normal(8).astype(np.float32), "m", "f")}]
        )
    )
    drawn = []
    for name in ("a.png", "b.png"):
        call = ["show", "--tsne", "in", "-o", name, "--seed", "1", "--sample", "30"]
        done = rsr(*call, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})  # more would wait for busy cores
        assert (done.returncode, done.stderr) == (0, b"")
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [(np.eye(2), "needs 3 records or more, and 2 came in"), (np.ones((5, 4)), "of all 5 records are the same")],
)
def test_what_cannot_be_laid_out(vectors, message):
    from rsr_cli.core.errors import RsrError

    with pytest.raises(RsrError, match=message):
        project(batches(vectors.astype(np.float32)), 100, 0, Skips())


@pytest.mark.parametrize("shape", [(3, 8), (5, 1), (4, 2)])
def test_the_fewest_records(shape):
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert np.isfinite(project(batches(vectors), 100, 0, Skips()).places).all()
