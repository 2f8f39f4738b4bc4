"""What GDAL is not given: a record may come from a stranger."""

import json
import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import rasterio
from support_rasters import ONES

from rsr_cli.core.errors import RasterError
from rsr_cli.core.network import allowing
from rsr_cli.core.rasters.opening import open_raster

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


@pytest.mark.parametrize("command", ["embed", "show"])
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
    import zipfile

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
