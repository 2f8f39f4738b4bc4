"""Areas: the forms of GeoJSON that state them, and what is refused."""

from __future__ import annotations

import geopandas
import orjson
import pytest
import shapely
from shapely.geometry import mapping

from rsr_cli.core.errors import UsageError
from rsr_cli.core.search.area import Area, turned

ONE, TWO = (
    shapely.box(0, 0, 1, 1),
    shapely.Polygon([(2, 0), (5, 0), (5, 3), (2, 3)], [[(3, 1), (4, 1), (4, 2), (3, 2)]]),
)
BOTH = shapely.MultiPolygon([ONE, TWO])


def feature(geometry) -> dict:
    return {"type": "Feature", "properties": None, "geometry": geometry and mapping(geometry)}


def collection(**more) -> dict:
    return {"type": "FeatureCollection", "features": [feature(ONE), feature(None), feature(TWO)], **more}


def crs(name) -> dict:
    return {"crs": {"type": "name", "properties": {"name": name}}}


def lines(*objects, before=b"") -> bytes:
    return b"".join(before + orjson.dumps(each) + b"\n" for each in objects)


FORMS = {
    "collection": orjson.dumps(collection(), option=orjson.OPT_INDENT_2),
    "with a CRS": orjson.dumps(collection(**crs("urn:ogc:def:crs:OGC:1.3:CRS84"))),
    "with another name of it": orjson.dumps(collection(**crs("urn:ogc:def:crs:EPSG::4326"))),
    "lines": lines(feature(ONE), feature(TWO)),
    "windows lines": lines(feature(ONE), feature(TWO)).replace(b"\n", b"\r\n"),
    "text sequence": lines(feature(ONE), feature(TWO), before=b"\x1e"),
    "geometries": lines(mapping(ONE), mapping(TWO)),
    "one geometry": lines(mapping(BOTH)),
    "geometry collection": lines(mapping(shapely.GeometryCollection([ONE, TWO]))),
    "with heights": lines(mapping(shapely.force_3d(BOTH, 12))),
}


@pytest.mark.parametrize("form", FORMS)
def test_polygons_of_every_form(tmp_path, form):
    (tmp_path / "a.geojson").write_bytes(FORMS[form])
    assert shapely.equals(Area.read(str(tmp_path / "a.geojson")).geometry, BOTH)


def test_what_geopandas_writes(tmp_path):
    geopandas.GeoSeries([ONE, TWO], crs=4326).to_file(tmp_path / "a.geojson")
    assert shapely.equals(Area.read(str(tmp_path / "a.geojson")).geometry, BOTH)


BOWTIE = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has no polygon"),
        (b"PAR1", "is not GeoJSON"),
        (b"[1]", "is not GeoJSON: [1]"),
        (b'{"type":"FeatureCollection"}', "is not GeoJSON: its features are None"),
        (b'{"type":"FeatureCollection","features":[]}', "has no polygon"),
        (b'{"type":"FeatureCollection","features":[3]}', "is not GeoJSON: 3"),
        (lines(feature(None)), "has no polygon"),
        (lines(feature(shapely.Point(1, 1))), "has 'Point' where a Polygon or MultiPolygon is expected"),
        (lines({"a": 1}), "has None where a Polygon"),
        (lines({"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [1, 1], [0, 0]]]}), "cannot be read"),
        (lines({"type": "Polygon", "coordinates": []}), "without coordinates"),
        (lines(feature(BOWTIE)), "has a polygon that is not valid: Self-intersection[0.5 0.5]"),
        (lines(feature(shapely.box(5e5, 5e6, 6e5, 6e6))), "is not in degrees: a polygon spans 500000 5e+06"),
        (
            orjson.dumps(collection(**crs("urn:ogc:def:crs:EPSG::32633"))),
            "is in urn:ogc:def:crs:EPSG::32633, not in lon",
        ),
    ],
)
def test_what_is_refused(tmp_path, data, says):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        Area.read(str(tmp_path / "a"))
    assert str(caught.value).startswith(f"{tmp_path / 'a'}: ")
    assert says in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="cannot be read"):
            Area.read(str(path))


@pytest.mark.parametrize("move", [-360, 360])
def test_what_is_beyond_180_degrees_is_turned_back(move):
    inside = shapely.box(170, 0, 180, 1)
    assert turned(inside) is inside
    across = shapely.union(inside, shapely.box(180, 0, 200, 1))
    there = shapely.MultiPolygon([inside, shapely.box(-180, 0, -160, 1)])
    assert shapely.equals(turned(across), there)
    assert shapely.equals(turned(shapely.box(170 + move, 0, 180 + move, 1)), inside)
    assert shapely.equals(turned(shapely.Point(180.5, 3)), shapely.Point(-179.5, 3))
