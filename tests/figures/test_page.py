"""The page of hits, parsed, and in a real browser."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from rsr_cli.core.errors import Skips
from rsr_cli.core.figures.gallery import FRAMES, Gallery
from rsr_cli.core.figures.page import write_page
from rsr_cli.core.records import streams

COLOURS = {name: tuple(bytes.fromhex(frame.colour[1:])) for name, frame in FRAMES.items()}
NASTY = "<script>alert('it')</script>&amp;"
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


def write(hits, queries=None):
    """Return the page of a file of hits."""
    collected = Gallery(10, 10, Skips())
    for batch in streams.read([str(hits)], Skips()):
        collected.add(batch)
    if queries:
        collected.read_queries(str(queries))
    agreements = collected.agreements()
    return b"".join(write_page(collected.rows(("red", "green", "blue"), (2, 98)), "a note", agreements, {})).decode()


@pytest.fixture(scope="module")
def page(gallery):
    return write(gallery / "hits.geojsonl", gallery / "queries.geojsonl")


def test_page_shows_how_labels_agree(page, parse_page):
    parsed = parse_page(page)
    frames = [attrs["class"].split()[1:] for attrs in parsed.all("div", "frame")]
    assert frames == [["asked"], ["all"], ["some"], ["none"], [], ["asked"], *[[]] * 4]
    assert len(parsed.all("section")) == 2
    text = "".join(parsed.words)
    assert [text.count(sign) for sign in ("\N{CHECK MARK}", "\N{BALLOT X}", "1/2")] == [2, 2, 1]  # with the key's
    assert parsed.rows == [
        ["Rank", "Distance", "Id", "Labels", "Shared"],
        ["1", "2.5", "both", "lake; forest; road", "2"],
        ["2", "5", "one", "lake; road", "1"],
        ["3", "7.5", NASTY, NASTY, "0"],
        ["4", "10", "unlabelled", "", ""],
        # The query has no labels, so there is nothing to compare
        ["Rank", "Distance", "Id", "Labels"],
        ["1", "2.5", "both", "lake; forest; road"],
        ["2", "5", "one", "lake; road"],
        ["3", "7.5", "other", NASTY],
        ["4", "10", "unlabelled", ""],
    ]


@pytest.fixture
def page_of(gallery, tmp_path, lines):
    """Return a function that changes the properties of the first query's hits, and returns their page."""

    def make(queries=None, **changed):
        hits = [json.loads(line) for line in (gallery / "hits.geojsonl").read_text().splitlines()][:4]
        for hit in hits:
            for name, value in changed.items():
                if name in hit:
                    hit[name] = value
                elif value is None:
                    hit["properties"].pop(name, None)
                else:
                    hit["properties"][name] = value
        (tmp_path / "hits").write_bytes(lines(hits))
        return write(tmp_path / "hits", queries)

    return make


def test_page_leaves_out_what_is_empty(page_of, parse_page):
    parsed = parse_page(page_of(query_labels=None, labels=None, distance=None, geometry=None))
    assert parsed.rows == [["Rank", "Id"], ["1", "both"], ["2", "one"], ["3", NASTY], ["4", "unlabelled"]]
    assert not parsed.all("p", "key")
    assert not parsed.all("svg")
    assert "Labels" not in "".join(parsed.words)
    assert len(parsed.thumbnails()) == 4
    timed = parse_page(page_of(start_datetime="2020-01-02"))
    assert [row[-1] for row in timed.rows] == ["Time", *["2020-01-02"] * 4]
    unknown = "".join(parse_page(page_of(labels=["lake"])).words)
    assert "all of the query's labels" in unknown
    assert "unknown" not in unknown


def test_hits_without_pixels_are_a_table_and_a_map(gallery, page_of, parse_page):
    """As of embeddings that were made elsewhere."""
    parsed = parse_page(page_of(source=None, window=None, bands=None))
    assert not parsed.all("figure")
    assert not parsed.all("div", "strip")
    assert [row[2] for row in parsed.rows] == ["Id", "both", "one", NASTY, "unlabelled"]
    assert {f"hit-0-{rank}" for rank in range(1, 5)} <= {attrs.get("id") for _, attrs in parsed.elements}
    with_query = parse_page(page_of(gallery / "queries.geojsonl", source=None))
    assert len(with_query.all("figure")) == len(with_query.thumbnails()) == 1


def test_page_repeats_nothing_of_a_hit(page, parse_page):
    words = "".join(parse_page(page).words)
    assert [words.count(word) for word in ("unlabelled", "7.5", "lake; forest; road")] == [2, 2, 2]  # one per query


def test_text_of_records_stays_where_it_is(page_of, parse_page):
    """Escapes, line feeds, and the marks that reverse the direction of the text behind them."""
    parsed = parse_page(page_of(id="\u202egpj.exe\x1b[2J\n", labels=["\u2066a", "שלום"], query_labels=["\x00"]))
    assert parsed.rows[1] == ["1", "2.5", r"\u202egpj.exe\x1b[2J\n", r"\u2066a; שלום", "0"]
    assert r"\x00" in parsed.words
    assert len(parsed.all("bdi")) == 2 + 4 * 3  # a query and its label; per hit an id and two labels


def test_page_loads_nothing_and_runs_nothing_from_records(page, parse_page):
    parsed = parse_page(page)
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


def browse(page, *arguments):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,900"]
    command = ["chromium", *options, f"--user-data-dir={page.parent / 'profile'}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@needs_chromium
def test_tables_sort_and_hits_light_up_in_a_browser(tmp_path, gallery, lines):
    hits = [json.loads(line) for line in (gallery / "hits.geojsonl").read_text().splitlines()]
    for hit, distance, time in zip(hits, (30, 4, None, 100), ("2020", "", "2019", "2021"), strict=False):
        hit["properties"] |= {"distance": distance, "datetime": time}
    (tmp_path / "unsorted.geojsonl").write_bytes(lines(hits[:4]))
    text = write(tmp_path / "unsorted.geojsonl")
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
    found = re.search("<title>(.*)</title>", browse(tmp_path / "page.html", "--dump-dom"))[1]
    # By distance (30, 4, none, 100) up and down, by time (none is last) up and down, by id and by shared labels. Then,
    # what lights up with the row under the mouse: the thumbnail, the row, and the outline and point on the map.
    assert found == "2143,4123,3142,4132,3124,3214 FIGURE,TR,g,g"


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
        boxes = [box for box in ndimage.find_objects(parts) if [side.stop - side.start for side in box] == [92, 92]]
        assert len(boxes) == 1
        lefts.append(boxes[0][1].start)
    assert np.diff(lefts).tolist() == [102, 102]
