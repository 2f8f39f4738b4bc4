"""What GDAL is not given: a record may come from a stranger."""

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from support import needs_torch
from support_rasters import ONES

from rsr_cli.core.errors import RasterError
from rsr_cli.core.rasters.opening import open_raster
from rsr_cli.core.reach import allowing

REMOTE = [
    "http://{host}/x.tif",
    "HTTPS://{host}/x.tif",
    "/vsicurl/http://{host}/x.tif",
    "/vsicurl?url=http%3A%2F%2F{host}%2Fx.tif",
    "/vsicurl_streaming/http://{host}/x.tif",
    "/vsis3/bucket/x.tif",
    "/vsigs/bucket/x.tif",
    "/vsiaz/container/x.tif",
    "/vsiadls/container/x.tif",
    "/vsioss/bucket/x.tif",
    "/vsiswift/bucket/x.tif",
    "/vsihdfs/x.tif",
    "/vsiwebhdfs/http://{host}/x.tif",
    "s3://bucket/x.tif",
    "zip+https://{host}/x.zip!x.tif",
    "/vsizip//vsicurl/http://{host}/x.zip/x.tif",
    "/vsizip/{{/vsicurl/http://{host}/x.zip}}/x.tif",
    "/vsigzip//vsitar//vsis3/bucket/x.tar/x.tif",
    "vrt://http://{host}/x.tif?bands=1",
    "vrt:///vsicurl/http://{host}/x.tif?bands=1",
    'HDF5:"http://{host}/x.h5"://a',
    'NETCDF:"/vsicurl/http://{host}/x.nc":a',
    "file:///vsicurl_streaming/http://{host}/x.tif",
    "zip:///vsicurl/http://{host}/x.zip!x.tif",
]
NEVER = [
    '<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>',
    "  <GDAL_WMS><Service name='TMS'><ServerUrl>http://{host}/</ServerUrl></Service></GDAL_WMS>",
    "WMS:http://{host}/?layers=a",
    "WCS:http://{host}/",
    "WMTS:http://{host}/",
    "PG:host={host} dbname=x mode=2",
    "MYSQL:x,host={host}",
    "MEM:::DATAPOINTER=1,PIXELS=1,LINES=1",
    "DERIVED_SUBDATASET:LOGAMPLITUDE:http://{host}/x.tif",
    'STACIT:"http://{host}/":asset=a',
    'STACTA:"http://{host}/":a',
    "EEDAI:image",
    "GTI:http://{host}/x.gpkg",
    "vrt://http://{host}/x.tif",
    "vrt://<GDAL_WMS/>?bands=1",
    "/vsistdin/",
    "/vsimem/x.tif",
    "/vsisubfile/0_1000,/etc/passwd",
    "/vsi",
    "gopher://{host}/x.tif",
    "NETCDF:none.nc:a",
    "NETCDF:http://{host}/x.nc:.",
    'NETCDF:http://127.0.0.1/x.nc:"."',
    'NETCDF:"""http://{host}/x.nc":a',
    "file:///vsisparse/x.xml",
    "file:///vsi\nsparse/x.xml",
    "zip:///vsistdin?!x.tif",
]


@pytest.fixture
def host():
    """Return the address of a server that notes who came, and the notes."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        over = threading.Event()

        def listen():
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    continue
                came.append(connection.recv(1))
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", came
        over.set()
        thread.join()


@pytest.mark.parametrize("source", REMOTE)
def test_a_source_on_the_network_is_refused(host, source):
    address, came = host
    with pytest.raises(RasterError, match="is on the network, which this run may not use") as caught:
        open_raster(source.format(host=address))
    assert (caught.value.remedy, came) == ("allow-network", [])


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("source", NEVER)
def test_what_is_neither_a_file_nor_on_the_network_is_always_refused(host, source, allow):
    address, came = host
    with allowing(allow), pytest.raises(RasterError, match=r"none of the forms|no such file"):
        open_raster(source.format(host=address))
    assert came == []


@pytest.mark.parametrize("command", [pytest.param("embed", marks=needs_torch), "show"])
@pytest.mark.parametrize("source", ["http://{host}/x.tif", "WMS:http://{host}/?layers=a"])
def test_records_of_a_stranger(tmp_path, rsr, host, command, source):
    address, came = host
    place = {"source": source.format(host=address), "window": [0, 0, 4, 4], "bands": ["red"], "query": "a", "rank": 1}
    record = {"type": "Feature", "id": "a", "geometry": None, "properties": {**place, "distance": 0}}
    settings = ["--model", "rcf:bands=red"] if command == "embed" else ["-o", tmp_path / "x.html", "--bands", "red"]
    done = rsr(command, *settings, input=json.dumps(record).encode())
    assert b"network" in done.stderr or b"none of the forms" in done.stderr
    assert came == []


def vrt(source, *, raw=False, extra="", relative=0):
    kind = ' subClass="VRTRawRasterBand"' if raw else ""
    name = f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename>'
    inside = name if raw else f"<SimpleSource>{name}<SourceBand>1</SourceBand></SimpleSource>"
    band = f'<VRTRasterBand dataType="Byte" band="1"{kind}>{inside}{extra}</VRTRasterBand>'
    return f'<VRTDataset rasterXSize="8" rasterYSize="8">{band}</VRTDataset>'


def test_a_virtual_raster_with_raw_bands_is_refused(tmp_path):
    """Alone, or as a source of another one."""
    (tmp_path / "secret.bin").write_bytes(bytes(range(64)))
    (tmp_path / "raw.vrt").write_text(vrt("secret.bin", raw=True, relative=1))
    (tmp_path / "outer.vrt").write_text(vrt("raw.vrt", relative=1))
    for name in ("raw.vrt", "outer.vrt"):
        with pytest.raises(RasterError, match=r"\.vrt: (has raw bands|cannot be read)"):
            open_raster(str(tmp_path / name))


def test_a_virtual_raster_that_leads_to_the_network(tmp_path, host):
    address, came = host
    (tmp_path / "x.vrt").write_text(vrt(f"/vsicurl/http://{address}/x.tif"))
    (tmp_path / "outer.vrt").write_text(vrt(tmp_path / "x.vrt"))
    for name in ("x.vrt", "outer.vrt"):
        with pytest.raises(RasterError, match=r"refers to /vsicurl/http.*which is on the network") as caught:
            open_raster(str(tmp_path / name))
        assert caught.value.remedy == "allow-network"
    assert came == []


@pytest.mark.parametrize(("old", "new"), [("subClass", "SUBCLASS"), ("SourceFilename", "SOURCEFILENAME")])
@pytest.mark.parametrize("relative", ["relativeToVRT", "RELATIVETOVRT", "relativetovrt"])
def test_raw_bands_two_levels_below_however_they_are_spelled(tmp_path, old, new, relative):
    (tmp_path / "secret.bin").write_bytes(bytes(range(64)))
    (tmp_path / "raw.vrt").write_text(vrt("secret.bin", raw=True, relative=1).replace(old, new))
    (tmp_path / "middle.vrt").write_text(
        vrt("raw.vrt", relative=1).replace("relativeToVRT", relative).replace(old, new)
    )
    (tmp_path / "outer.vrt").write_text(vrt(tmp_path / "middle.vrt"))
    with rasterio.open(tmp_path / "outer.vrt") as dataset:  # GDAL alone
        assert dataset.read().sum() == sum(range(64))
    with pytest.raises(RasterError, match="has raw bands"):
        open_raster(str(tmp_path / "outer.vrt"))


def test_a_virtual_raster_that_asks_a_server_when_it_is_opened(tmp_path, host):
    address, came = host
    band = '<VRTRasterBand dataType="Byte" band="1" subClass="VRTWarpedRasterBand"/>'
    source = f'<SourceDataset relativeToVRT="0">NETCDF:"http://{address}/x.nc":a</SourceDataset>'
    (tmp_path / "x.vrt").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8" subClass="VRTWarpedDataset" xmlns="http://a">'
        f"{band}<GDALWarpOptions>{source}</GDALWarpOptions></VRTDataset>"
    )
    with pytest.raises(RasterError, match="which is on the network"):
        open_raster(str(tmp_path / "x.vrt"))
    assert came == []


@pytest.mark.parametrize(
    ("where", "domain", "key"),
    [
        ("tag", "OVERVIEWS", "OVERVIEW_FILE"),
        ("aux.xml", "OVERVIEWS", "OVERVIEW_FILE"),
        ("aux.xml", "ProxyOverviewRequest", "FILENAME"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_raster_that_names_its_overviews(tmp_path, write_raster, host, where, domain, key, nested):
    """A GeoTIFF alone can let GDAL open anything when it is read at a smaller size."""
    address, came = host
    write_raster(tmp_path / "a.tif", ONES)
    name = f'NETCDF:"http://{address}/x.nc":a'
    if where == "tag":
        with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
            dataset.update_tags(ns=domain, **{key: name})
    else:
        facts = f'<Metadata domain="{domain}"><MDI key="{key}">{name}</MDI></Metadata>'
        (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{facts}</PAMDataset>")
    (tmp_path / "x.vrt").write_text(vrt("a.tif", relative=1))
    with pytest.raises(RasterError, match="names another file as its overviews"):
        open_raster(str(tmp_path / ("x.vrt" if nested else "a.tif")))
    assert came == []


@pytest.mark.parametrize("ending", [".ovr", ".msk", ".OVR", ".Msk"])
def test_a_virtual_raster_beside_a_raster(tmp_path, write_raster, ending):
    write_raster(tmp_path / "a.tif", ONES)
    (tmp_path / f"a.tif{ending}").write_text(vrt("/etc/passwd", raw=True))
    with pytest.raises(RasterError, match=rf"overviews or a mask in .*a\.tif{ending}, which is no TIFF"):
        open_raster(str(tmp_path / "a.tif"))


def test_overviews_and_masks_beside_a_raster_are_read(tmp_path, write_raster):
    write_raster(tmp_path / "a.tif", ONES)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.build_overviews([2])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.write_mask(np.zeros(dataset.shape, bool))
    assert {path.name for path in tmp_path.iterdir()} >= {"a.tif.ovr", "a.tif.msk"}
    with open_raster(str(tmp_path / "a.tif")) as dataset:
        assert dataset.overviews(1) == [2]
        assert not dataset.read_masks(1).any()


RAW = (
    '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    '<SourceFilename relativeToVRT="0">{secret}</SourceFilename><ImageOffset>0</ImageOffset>'
    "<PixelOffset>1</PixelOffset><LineOffset>8</LineOffset></VRTRasterBand></VRTDataset>"
)


@pytest.fixture(params=["zip", "tar"])
def archived(request, tmp_path):
    """Return a function that puts files into an archive, and returns the path of the first one there."""

    def put(**files):
        names = {name.replace("_", "."): content for name, content in files.items()}
        path = tmp_path / f"a.{request.param}"
        if request.param == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in names.items():
                    archive.writestr(name, content)
        else:
            with tarfile.open(path, "w") as archive:
                for name, content in names.items():
                    facts = tarfile.TarInfo(name)
                    facts.size = len(content)
                    archive.addfile(facts, io.BytesIO(content))
        return f"/vsi{request.param}/{path}/{next(iter(names))}"

    return put


def test_a_virtual_raster_in_an_archive(tmp_path, archived, host):
    """GDAL opens a warped one's source at once, by netCDF's own means on the network."""
    address, came = host
    (tmp_path / "secret").write_bytes(bytes(range(64)))
    warped = '<VRTDataset rasterXSize="8" rasterYSize="8" subClass="VRTWarpedDataset"><GDALWarpOptions><SourceDataset>'
    warped += f'NETCDF:"http://{address}/x.nc":a</SourceDataset></GDALWarpOptions></VRTDataset>'
    for text in (RAW.format(secret=tmp_path / "secret"), warped):
        inside = archived(x_vrt=text.encode())
        for source in (inside, inside.replace("x.vrt", "./x.vrt")):
            with pytest.raises(RasterError, match="cannot be read"):
                open_raster(source)
        (tmp_path / "m.vrt").write_text(vrt(inside))
        with pytest.raises(RasterError, match="in an archive, which cannot be checked"):
            open_raster(str(tmp_path / "m.vrt"))
    assert came == []


def test_overviews_in_an_archive_are_not_read(tmp_path, archived, write_raster):
    (tmp_path / "secret").write_bytes(bytes(range(1, 65)))
    image = Path(write_raster(tmp_path / "x.tif", np.zeros((1, 16, 16), "uint8"))).read_bytes()
    source = archived(x_tif=image, x_tif_ovr=RAW.format(secret=tmp_path / "secret").encode())
    with open_raster(source) as dataset:
        assert dataset.overviews(1) == []
        assert not dataset.read(1, out_shape=(8, 8)).any()


def test_pipes_and_devices_that_a_virtual_raster_refers_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", "/dev/zero"):
        (tmp_path / "x.vrt").write_text(vrt(source))
        with pytest.raises(RasterError, match=r"is a (named pipe|device) and not a file"):
            open_raster(str(tmp_path / "x.vrt"))


def test_a_virtual_raster_with_code(tmp_path, write_raster):
    write_raster(tmp_path / "a.tif", ONES)
    code = "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>f</PixelFunctionType>"
    text = vrt(tmp_path / "a.tif", extra=code).replace('band="1"', 'band="1" subClass="VRTDerivedRasterBand"')
    (tmp_path / "x.vrt").write_text(text)
    with pytest.raises(RasterError, match=r"code of its own|cannot be read"):
        open_raster(str(tmp_path / "x.vrt"))


def test_xml_of_a_service_in_a_file(tmp_path, host):
    address, came = host
    (tmp_path / "x.xml").write_text(
        f"<GDAL_WMS><Service name='TMS'><ServerUrl>http://{address}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>"
        "<DataWindow><SizeX>256</SizeX><SizeY>256</SizeY></DataWindow></GDAL_WMS>"
    )
    with allowing(True), pytest.raises(RasterError, match="cannot be read"):
        open_raster(str(tmp_path / "x.xml"))
    assert came == []


@pytest.mark.parametrize("name", ["x.ers", "x.mrf"])
def test_a_header_that_names_any_file_is_refused(tmp_path, name):
    (tmp_path / "secret.txt").write_text("0123456789abcdef" * 4)
    facts = "CellType = Unsigned8BitInteger\nNrOfLines = 4\nNrOfCellsPerLine = 4\nNrOfBands = 1\n"
    plain = "import rasterio, sys; print(rasterio.open(sys.argv[1]).read().sum())"  # GDAL alone
    ers = 'Version = "6.0"\nDataFile = "secret.txt"\nDataSetType = ERStorage\nDataType = Raster\nByteOrder = LSBFirst\n'
    ers += f"RasterInfo Begin\n{facts}RasterInfo End\n"
    sizes = '<Size x="4" y="4" c="1"/><PageSize x="4" y="4" c="1"/><Compression>NONE</Compression>'
    mrf = f"<Raster>{sizes}<DataType>Byte</DataType><DataFile>{tmp_path}/secret.txt</DataFile></Raster>"
    texts = {"x.ers": f"DatasetHeader Begin\n{ers}DatasetHeader End\n", "x.mrf": f"<MRF_META>{mrf}</MRF_META>"}
    (tmp_path / name).write_text(texts[name])
    alone = {key: value for key, value in os.environ.items() if key != "GDAL_SKIP"}
    done = subprocess.run([sys.executable, "-c", plain, tmp_path / name], env=alone, capture_output=True, check=True)
    assert int(done.stdout) == sum(b"0123456789abcdef")
    with pytest.raises(RasterError, match="cannot be read"):
        open_raster(str(tmp_path / name))


def test_what_people_name_is_read(tmp_path, write_raster, monkeypatch):
    """Files with odd names too, archives, mosaics, and subdatasets."""
    odd = tmp_path / "vsicurl" / "a:b.tif"
    write_raster(odd, ONES)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(odd, "in/a.tif")
    (tmp_path / "m.vrt").write_text(vrt("vsicurl/a:b.tif", relative=1))
    monkeypatch.chdir(tmp_path)
    for source in (
        "vsicurl/a:b.tif",
        str(odd),
        "/vsizip/a.zip/in/a.tif",
        f"/vsizip/{tmp_path}/a.zip/in/a.tif",
        f"zip://{tmp_path}/a.zip!/in/a.tif",
        "m.vrt",
        f"GTIFF_DIR:1:{odd}",
        "vrt://vsicurl/a:b.tif?bands=1",
    ):
        with open_raster(source) as dataset:
            assert np.array_equal(dataset.read(1), ONES[0]), source


def test_gdal_itself_does_not_reach_the_network(host):
    """What rsr would not see, as a file that GDAL looks for beside a raster."""
    address, came = host
    with pytest.raises(rasterio.errors.RasterioError):
        rasterio.open(f"/vsicurl/http://{address}/x.tif")
    assert came == []
    guard = "CPL_VSIL_CURL_ALLOWED_FILENAME"
    with allowing(True):
        assert guard not in os.environ
    assert guard in os.environ
