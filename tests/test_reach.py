"""A run that is confined to a directory: no raster outside of it is opened, whatever leads there."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import rasterio.shutil
from support import needs_torch
from support_rasters import ONES
from support_stac import item

from rsr_cli.core.errors import RasterError
from rsr_cli.core.rasters.opening import open_raster
from rsr_cli.core.rasters.pixels import read_pixels
from rsr_cli.core.reach import allowing

VRT = (
    '<VRTDataset rasterXSize="{1}" rasterYSize="{1}"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="{2}">{0}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'
    "</VRTDataset>"
)


def vrt(source, relative=0):
    return VRT.format(source, ONES.shape[-1], relative)


@pytest.fixture
def root(tmp_path, write_raster, monkeypatch):
    """Return a directory with rasters that lead out of it in many ways; it is a link itself, and the current one."""
    write_raster(tmp_path / "out.tif", ONES.astype("uint16"))
    root = tmp_path / "real"
    write_raster(root / "in.tif", ONES.astype("uint16"))
    write_raster(root / "sub" / "in.tif", ONES.astype("uint16"))
    np.save(root / "in.npy", ONES[0])
    np.save(tmp_path / "out.npy", ONES[0])
    for name in ("out.tif", "out.npy"):
        (root / f"link-{name}").symlink_to(tmp_path / name)
    (root / "up").symlink_to(tmp_path)
    (root / "inner").symlink_to("sub")
    (root / "out.vrt").write_text(vrt(tmp_path / "out.tif"))
    (root / "relative.vrt").write_text(vrt("../out.tif", 1))
    (root / "linked.vrt").write_text(vrt("link-out.tif", 1))
    (root / "nested.vrt").write_text(vrt("relative.vrt", 1))
    (root / "band.vrt").write_text(vrt(f"vrt://{tmp_path}/out.tif?bands=1"))
    (root / "in.vrt").write_text(vrt("sub/in.tif", 1))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "base.vrt").write_text(vrt("../out.tif", 1))
    for folder in (root, tmp_path):
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            archive.write(root / "in.tif", "x/in.tif")
    (root / "link.zip").symlink_to(tmp_path / "a.zip")
    for name, beside in (("ovr.tif", ".ovr"), ("msk.tif", ".msk"), ("aux.tif", ".aux.xml")):
        shutil.copy(root / "in.tif", root / name)
        target = tmp_path / f"beside{beside}"
        shutil.copy(root / "in.tif", target)
        if beside == ".aux.xml":
            target.write_text('<PAMDataset><Metadata><MDI key="a">b</MDI></Metadata></PAMDataset>')
        (root / (name + beside)).symlink_to(target)
    link = tmp_path / "root"
    link.symlink_to(root)
    monkeypatch.chdir(link)
    return link


OUT = [
    "{out}/out.tif",
    "../out.tif",
    "sub/../../out.tif",
    "up/out.tif",
    "link-out.tif",
    "{root}/link-out.tif",
    "{out}/out.npy",
    "link-out.npy",
    "file://{out}/out.tif",
    "file://{root}/link-out.tif",
    "vrt://{out}/out.tif?bands=1",
    "vrt://link-out.tif?bands=1",
    "vrt://../out.tif?bands=1",
    "GTIFF_DIR:1:{out}/out.tif",
    "GTIFF_DIR:1:../out.tif",
    'NETCDF:"{out}/out.tif":a',
    "HDF5:{out}/out.tif://a",
    "/vsizip/{out}/a.zip/x/in.tif",
    "/vsizip/../a.zip/x/in.tif",
    "/vsizip/link.zip/x/in.tif",
    "/vsizip/up/a.zip/x/in.tif",
    "/vsigzip//vsizip/{out}/a.zip/x/in.tif",
    "zip://{out}/a.zip!x/in.tif",
    "zip+file://{root}/link.zip!x/in.tif",
    "out.vrt",
    "relative.vrt",
    "linked.vrt",
    "nested.vrt",
    "band.vrt",
    "vrt://nested.vrt?bands=1",
    "ovr.tif",
    "msk.tif",
    "aux.tif",
]
UNCLEAR = [
    "/vsizip/{{{out}/a.zip}}/x/in.tif",
    "/vsizip/{{a.zip}}/x/in.tif",
    "/vsizip/{{{out}/a.zip}}/vsicurl/in.tif",
    "file://{out}/out.tif#/real/in.tif",
    "zip://{root}/a.zip!x/in.tif!y",
    "/vsizip/none.zip/x.tif",
]
RELATIVE = ["file://in.tif", "zip://a.zip!x/in.tif"]


@pytest.mark.parametrize("source", OUT)
def test_what_leads_out_of_the_directory_is_refused(root, source):
    source = source.format(out=root.parent, root=root)
    with allowing(False, str(root)), pytest.raises(RasterError, match=r"is not in /.*/real, where all ra") as caught:
        open_raster(source)
    assert caught.value.remedy == "root"


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("source", [*UNCLEAR, *RELATIVE])
def test_what_may_lead_out_of_the_directory_is_refused(root, source, network):
    says = "is a URL with a relative path" if source in RELATIVE else "none of the forms"
    with allowing(network, str(root)), pytest.raises(RasterError, match=says):
        open_raster(source.format(out=root.parent, root=root))


@pytest.mark.parametrize(
    "source",
    [
        *(
            "in.tif",
            "{root}/in.tif",
            "{real}/in.tif",
            "sub/../in.tif",
            "up/real/in.tif",
            "inner/in.tif",
            "in.npy",
            "in.vrt",
        ),
        *("file://{root}/in.tif", "vrt://in.tif?bands=1", "GTIFF_DIR:1:in.tif", "vrt://in.vrt?bands=1"),
        *("/vsizip/a.zip/x/in.tif", "/vsizip/{root}/a.zip/x/in.tif", "zip://{real}/a.zip!x/in.tif"),
    ],
)
def test_what_is_in_the_directory_is_read(root, source):
    with allowing(False, str(root)), open_raster(source.format(root=root, real=root.parent / "real")) as dataset:
        assert np.array_equal(dataset.read(1), ONES[0])


def test_a_directory_whose_name_begins_as_the_root_is_outside(root):
    with allowing(False, str(root / "sub")), pytest.raises(RasterError, match="is not in"):
        open_raster(str(root / "in.tif"))
    (root / "submarine").mkdir()
    shutil.copy(root / "in.tif", root / "submarine")
    with allowing(False, str(root / "sub")), pytest.raises(RasterError, match="is not in"):
        open_raster("submarine/in.tif")
    with open_raster(str(root.parent / "out.tif")):
        pass  # the block is over


def test_a_virtual_raster_that_is_a_link_names_files_relative_to_itself(root):
    """GDAL takes the directory that the link leads to, here one in which the same name is outside."""
    (root / "sub" / "deep").mkdir()
    (root / "sub" / "deep" / "real.vrt").write_text(vrt("../../../out.tif", 1))
    (root / "a.vrt").symlink_to("sub/deep/real.vrt")
    (root / "b").mkdir()
    (root / "b" / "c").mkdir()
    (root / "b" / "c" / "d.vrt").symlink_to("../../a.vrt")
    for name in ("a.vrt", "b/c/d.vrt"):
        with allowing(False, str(root)), pytest.raises(RasterError, match="is not in"):
            open_raster(name)


def test_formats_whose_files_name_others_unseen_are_refused(root, tmp_path):
    rasterio.shutil.copy(root / "in.tif", root / "x.nc", driver="netCDF")
    (root / "nc.vrt").write_text(vrt("x.nc", 1))
    (root / "sub.vrt").write_text(vrt('NETCDF:"x.nc":Band1'))
    with open_raster("x.nc"):
        pass
    for source in ("x.nc", 'NETCDF:"x.nc":Band1', "nc.vrt", "sub.vrt"):
        with allowing(False, str(root)), pytest.raises(RasterError, match="format") as caught:
            open_raster(source)
        assert caught.value.remedy == "raw-bands"


def tile(**properties):
    width = ONES.shape[-1]
    facts = {"source": "in.tif", "bands": ["red"], "window": [0, 0, width, width], **properties}
    return {"type": "Feature", "id": "a", "geometry": None, "properties": facts}


@pytest.mark.parametrize(
    "change",
    [
        {"source": "link-out.tif"},
        {"source": {"red": "in.tif", "nir": "../out.tif"}, "bands": ["red", "nir"]},
        {"mask": {"source": "../out.tif", "values": [7]}},
        {"mask": {"source": "vrt://link-out.tif?bands=1", "values": [7]}},
        {"decode": {"scales": "link-out.npy"}},
    ],
)
def test_every_file_of_a_record_is_checked(root, change):
    text = json.dumps(tile(**change)).replace("../", f"{root.parent}/").replace("link-", f"{root}/link-")
    record, bands = json.loads(text), change.get("bands", ["red"])
    with allowing(False, str(root)), pytest.raises(RasterError, match="is not in"):
        read_pixels(record, bands)
    read_pixels(record, bands)


@pytest.mark.parametrize("source", ["x" * 70_000, "a:" + "x" * 70_000, "/vsizip/" + "x" * 70_000, "x\0", "file:///x\0"])
@pytest.mark.parametrize("confined", [False, True])
def test_names_that_no_file_has(root, source, confined):
    with allowing(False, str(root) if confined else None), pytest.raises(RasterError, match=r"no such|no file|cannot"):
        open_raster(source)


@needs_torch
def test_a_record_that_leads_out_is_skipped(root, rsr):
    lines = b"".join(json.dumps(each | {"id": str(i)}).encode() + b"\n" for i, each in enumerate(RECORDS))
    embed = ["embed", "--model", "rcf:bands=red", "--root", "."]
    done = rsr(*embed, input=lines)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"rsr embed: <stdin>:1: ../out.tif: is not in /")
    assert line.endswith(b"; pass another --root if you trust where it comes from")
    done = rsr(*embed, "--keep-going", input=lines)
    assert done.returncode == 3
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["1"]


RECORDS = [tile(source="../out.tif"), tile(), tile(source="nested.vrt")]


def test_a_hit_that_leads_out_is_drawn_without_a_thumbnail(root, rsr):
    hit = {"query": "a", "rank": 1, "distance": 0}
    lines = b"".join(json.dumps(tile(**hit, source=name)).encode() + b"\n" for name in ("../out.tif",))
    done = rsr("show", "--root", root, "--bands", "red", "-o", root.parent / "x.html", input=lines)
    assert done.returncode == 0
    assert b"is drawn without a thumbnail" in done.stderr
    assert b"is not in" in done.stderr
    assert b"data:image" not in (root.parent / "x.html").read_bytes()


def test_items_and_the_links_of_catalogues(root, rsr):
    def asset(href):
        return {"red": {"href": href, "eo:bands": [{"name": "B04", "common_name": "red"}]}}

    for name, href in (("good", "./in.tif"), ("bad", "../out.tif"), ("url", f"file://{root.parent}/out.tif")):
        (root / f"{name}.json").write_text(json.dumps(item(name, asset(href))))
    (root.parent / "far.json").write_text(json.dumps(item("far", asset("real/in.tif"))))
    links = [{"rel": "item", "href": f"./{name}.json"} for name in ("bad", "../far", "good", "url")]
    catalogue = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "", "links": links}
    (root / "catalog.json").write_text(json.dumps(catalogue))
    whole = ["--whole", "--scale", 1, "--offset", 0, "--root", root]
    done = rsr("tile", *whole, "--keep-going", "catalog.json")
    assert done.returncode == 3
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["good"]
    assert done.stderr.count(b"is not in") == 3
    assert rsr("tile", *whole, root.parent / "far.json").returncode == 0  # named by the user
    assert rsr("tile", *whole, "--bands", "red", root.parent / "out.tif").returncode == 1


def test_the_directory_must_be_there(rsr, tmp_path):
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        done = rsr("tile", "--root", tmp_path / name, "x.tif")
        assert done.returncode == 2
        assert b"--root" in done.stderr
