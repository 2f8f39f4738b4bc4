"""Every command of the documentation's shell blocks, run in order as a reader would."""

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from support_docs import BLOCK, run_page
from support_stac import earth_search, save

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))

#: What a page starts from, by the names of the fixtures that write it.
DATA = {
    "evaluation.md": ["bigearthnet"],
    "formats.md": ["items", "tables", "alphaearth"],
    "tutorial-embeddings.md": ["clay", "alphaearth"],
}


@pytest.fixture
def folder(tmp_path):
    """Return a directory that contains the examples, as a clone does."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.fixture
def bigearthnet(folder, miniature):
    shutil.copytree(miniature / "BigEarthNet", folder / "BigEarthNet")


@pytest.fixture
def clay(folder, shared_data):
    shutil.copy(shared_data / "embeddings" / "clay_v0_03WVN_20220610.gpq", folder)


@pytest.fixture
def items(folder, write_raster):
    save(folder / "items.json", {"type": "FeatureCollection", "features": [earth_search(folder, write_raster)]})


@pytest.fixture
def tables(folder):
    """Write embeddings of others: a directory as Clay's, samples of Earth Engine in CSV, an array."""
    draw = np.random.default_rng(1)
    for name, first in (("clay/a.parquet", 0), ("clay/b.parquet", 30)):
        (folder / name).parent.mkdir(exist_ok=True)
        vectors = [row.tolist() for row in draw.normal(size=(30, 16)).astype("float32")]
        ids = [f"chip_{number}" for number in range(first, first + 30)]
        pq.write_table(
            pa.table({"chips_id": ids, "embedding": pa.array(vectors, pa.list_(pa.float32()))}), folder / name
        )
    names = ["system:index", *(f"A{number:02}" for number in range(64)), ".geo"]
    rows = (
        [f"0_{i}", *draw.uniform(-1, 1, 64).round(6), '"{""type"":""Point"",""coordinates"":[9,48]}"'] for i in range(5)
    )
    (folder / "samples.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in [names, *rows]))
    np.save(folder / "vectors.npy", draw.normal(size=(40, 24)).astype("float32"))


@pytest.fixture
def alphaearth(folder, write_raster):
    """Write two years of 16 fields, which keep their vectors but for the last one."""
    draw = np.random.default_rng(0)
    fields = draw.integers(-127, 128, (64, 4, 4))
    for year in (2023, 2024):
        noisy = np.kron(fields, np.ones((64, 64), int)) + draw.integers(-3, 4, (64, 256, 256))
        write_raster(
            folder / f"annual/{year}/32N/x.tiff",
            noisy.clip(-127, 127).astype("int8"),
            crs="EPSG:32632",
            transform=rasterio.Affine(10, 0, 500000, 0, 10, 5300000),
            nodata=-128,
            names=[f"A{number:02}" for number in range(64)],
        )
        fields[:, -1, -1] = draw.integers(-127, 128, 64)


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_the_page_runs(page, folder, warm_path, request):
    if "--model rcf" in page.read_text():
        request.getfixturevalue("torch")
    for fixture in DATA.get(page.name, []):
        request.getfixturevalue(fixture)
    run_page(page, folder, warm_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_or_output_is_only_shown(page):
    """A page shows commands where they run and output where it is compared; design.md opens with the README's pipe."""
    rest = BLOCK.sub("", page.read_text()).partition("## 1. One record")[2 if page.name == "design.md" else 0]
    assert re.findall(r"^ *(?:rsr |```text).*", rest, flags=re.MULTILINE) == []


@pytest.mark.parametrize(("script", "shown"), [("false; true", ""), ("false | true", ""), ("echo one", "two")])
def test_a_page_that_fails_or_shows_another_output_is_noticed(tmp_path, warm_path, script, shown):
    page = tmp_path / "page.md"
    page.write_text(f"```sh\n{script}\n```\n" + f"\n```text\n{shown}\n```\n" * bool(shown))
    with pytest.raises(AssertionError, match=r"page\.md"):
        run_page(page, tmp_path, warm_path)
