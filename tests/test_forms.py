"""What an output may replace: files as their own libraries, and rsr itself, write them."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from support import drawn_lines, feature

from rsr_cli.core.errors import OutputError, UsageError
from rsr_cli.core.files import Output
from rsr_cli.core.forms import BYTE_ORDER_MARK, FIGURES, JSON_LINES, TABLE
from rsr_cli.remedies import explain

FORMS = {"records": JSON_LINES, "table": TABLE, **FIGURES}
COLLECTION = {"type": "FeatureCollection", "features": [feature("a")]}
PDF = b"%PDF-1.4\n%\xac\xdc \xab\xba\n1 0 obj\n"
TABLES = {
    "aligned": b"metric  value\nmap@20  0.5000\n",
    "csv": BYTE_ORDER_MARK + "metric,value\nmäp,1\n".encode(),
    "json table": b'{"metric":"map@20","value":0.5}\n',
}
#: File -> the forms of output that replace it.
CONTENTS = {
    "empty": (b"", set(FORMS)),
    "blank": (b"\n \r\n", set(FORMS)),
    "records": (drawn_lines(2), {"records"}),
    "long records": (drawn_lines(2, 4096), {"records"}),
    "records of others": (b'{ "id": 1, "type": "Feature", "properties": {} }\r\n{ "id": 2 }\r\n', {"records", "table"}),
    "records with separators": (b"\x1e" + drawn_lines(1), {"records"}),
    "records after a byte order mark": (BYTE_ORDER_MARK + drawn_lines(1), {"records"}),
    "records that were cut off": (drawn_lines(1)[:50], {"records"}),
    **{name: (content, {"table"}) for name, content in TABLES.items()},
    "json table": (TABLES["json table"], {"records", "table"}),
    "note": (b"years of work\n", {"table"}),
    "qrels": (b"q 0 x 1\n", {"table"}),
    "collection": (json.dumps(COLLECTION).encode(), set()),
    "collection, its type last": (json.dumps(dict(reversed(COLLECTION.items()))).encode(), {"table"}),
    "collection over lines": (json.dumps(COLLECTION, indent=1).encode(), set()),
    "notebook": (b'{\n "cells": []\n}\n', {"table"}),
    "settings": (b'{"cells": [\n1\n]}\n', {"table"}),
    "VRT": (b"<VRTDataset></VRTDataset>\n", set()),
    "page": (b"<!DOCTYPE html>\n<html>", {"html"}),
    "page in small letters": (b"\n<!doctype html><html>", {"html"}),
    "page without a type": (b"<html lang='en'>", {"html"}),
    "XML": (b"<?xml version='1.0'?><kml/>", set()),
    "PDF": (PDF, {"pdf"}),
    "gzip": (gzip.compress(b"x" * 100), set()),
    "UTF-16": ("{'a':1}".encode("utf-16"), set()),
    "numbers": (np.arange(100, dtype=np.uint16).tobytes(), set()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_only_a_file_of_its_own_form_is_replaced(tmp_path, kind, form):
    content, forms = CONTENTS[kind]
    (tmp_path / "out").write_bytes(content)
    if form in forms:
        with Output(str(tmp_path / "out"), FORMS[form], overwrite=True) as out:
            out.write([b"new"])
        assert (tmp_path / "out").read_bytes() == b"new"
        return
    for overwrite in (True, False):  # no hint at an option that would not help
        with pytest.raises(OutputError) as caught, Output(str(tmp_path / "out"), FORMS[form], overwrite=overwrite):
            pass
        says = f"{tmp_path}/out: exists and is not {FORMS[form].name}; it is not replaced; pass another name to -o"
        assert explain(caught.value) == says
    assert (tmp_path / "out").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("driver", ["GTiff", "COG", "PNG", "JPEG", "JP2OpenJPEG", "VRT", "HFA", "netCDF", "ENVI"])
@pytest.mark.parametrize("form", ["records", "table", "html", "pdf", "tif"])
def test_no_raster_is_replaced(tmp_path, write_raster, driver, form):
    import rasterio
    import rasterio.shutil

    write_raster(tmp_path / "x.tif", np.ones((1, 16, 16), np.uint8))
    try:
        rasterio.shutil.copy(tmp_path / "x.tif", tmp_path / "out", driver=driver)
    except rasterio.errors.RasterioError:
        pytest.skip(f"this GDAL does not write {driver}")
    before = (tmp_path / "out").read_bytes()
    with (
        pytest.raises(OutputError, match="is not replaced"),
        Output(str(tmp_path / "out"), FORMS[form], overwrite=True),
    ):
        pass
    assert (tmp_path / "out").read_bytes() == before


def test_a_file_of_another_form_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="is not JSON lines"), Output(str(path), JSON_LINES, overwrite=True):
        path.write_bytes(PDF)
    assert path.read_bytes() == PDF


def test_a_link_to_a_raster_does_not_let_it_be_replaced(tmp_path, write_raster):
    path = write_raster(tmp_path / "x.tif", np.ones((1, 16, 16), np.uint8))
    (tmp_path / "link").symlink_to("x.tif")
    with (
        pytest.raises(OutputError, match="is not JSON lines"),
        Output(str(tmp_path / "link"), JSON_LINES, overwrite=True),
    ):
        pass
    assert path == str((tmp_path / "link").resolve())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("ending", "program"),
    [("gz", "gzip"), ("GZ", "gzip"), ("zst", "zstd"), ("bz2", "bzip2"), ("xz", "xz"), ("zip", "zip")],
)
def test_an_output_is_not_named_as_what_it_is_not(tmp_path, form, ending, program):
    with pytest.raises(UsageError) as caught:
        Output(str(tmp_path / f"x.geojsonl.{ending}"), FORMS[form])
    says = "is named as a compressed file, and the output is not compressed"
    remedy = f"leave the ending out, or pipe the output through {program}"
    assert explain(caught.value) == f"{tmp_path}/x.geojsonl.{ending}: {says}; {remedy}"


def test_every_command_that_writes_a_file_keeps_the_rasters(rsr, tmp_path, write_raster):
    """The commands that a user ran: a scene under the name of the output, as input too."""
    scene = write_raster(tmp_path / "scene.tif", np.full((3, 64, 64), 900, np.uint16), names=("red", "green", "blue"))
    before = (tmp_path / "scene.tif").read_bytes()
    tiles = rsr("tile", scene, "--size", 32, cwd=tmp_path).stdout
    (tmp_path / "tiles").write_bytes(tiles)
    (tmp_path / "drawn").write_bytes(drawn_lines(3))
    assert rsr("index", "drawn", "-o", "i.rsr", cwd=tmp_path).returncode == 0
    hits = rsr("query", "i.rsr", "drawn", cwd=tmp_path).stdout
    (tmp_path / "hits").write_bytes(hits)
    for command in (
        ["tile", "--whole", "scene.tif"],
        ["embed", "tiles", "--model", "rcf:bands=red,green,blue"],
        ["binarize", "drawn"],
        ["query", "i.rsr", "drawn"],
        ["score", "hits", "--truth", "drawn"],
        ["models"],
    ):
        done = rsr(*command, "-o", "scene.tif", "--overwrite", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, b""), command
        assert b"scene.tif: exists and is not " in done.stderr
        assert (tmp_path / "scene.tif").read_bytes() == before
    for name in ("x.png", "x.pdf", "x.html"):
        (tmp_path / name).write_bytes(before)
        assert rsr("show", "hits", "-o", name, "--overwrite", cwd=tmp_path).returncode == 1
        assert (tmp_path / name).read_bytes() == before
    done = rsr("show", "--map", "hits", "-o", "scene.tif", "--overwrite", cwd=tmp_path)
    assert (done.returncode, b"scene.tif: exists and is not a similarity map; it is not replaced" in done.stderr) == (
        1,
        True,
    )
    assert (tmp_path / "scene.tif").read_bytes() == before
    assert rsr("index", "drawn", "-o", "scene.tif", "--overwrite", cwd=tmp_path).returncode == 1
    assert (tmp_path / "scene.tif").read_bytes() == before


@pytest.mark.parametrize("link", ["itself", "symlink_to", "hardlink_to"])
def test_an_input_can_be_the_output(rsr, tmp_path, link):
    (tmp_path / "x").write_bytes(drawn_lines(2000))
    expected = rsr("binarize", "x", cwd=tmp_path).stdout
    name = "x" if link == "itself" else "y"
    if name == "y":
        getattr(tmp_path / name, link)(tmp_path / "x")
    assert rsr("binarize", "x", "-o", name, "--overwrite", cwd=tmp_path).returncode == 0
    assert (tmp_path / name).read_bytes() == expected
    assert (tmp_path / "x").read_bytes() == (drawn_lines(2000) if link == "hardlink_to" else expected)
