"""Miniature Items in the shape of published ones, beside the rasters that they name."""

import json

import numpy as np
from support_rasters import grid

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
#: Size of the scene in metres.
EXTENT = 640

# Earth Search v1, sentinel-2-l2a: asset, file, common name, centre wavelength, metres.
EARTH_SEARCH = [
    ("blue", "B02", "blue", 0.49, 10),
    ("red", "B04", "red", 0.665, 10),
    ("rededge1", "B05", "rededge", 0.704, 20),
    ("rededge2", "B06", "rededge", 0.74, 20),
    ("rededge3", "B07", "rededge", 0.783, 20),
    ("nir", "B08", "nir", 0.842, 10),
    ("nir08", "B8A", "nir08", 0.865, 20),
    ("swir22", "B12", "swir22", 2.19, 20),
]
# Landsat Collection 2 Level 2 of the Planetary Computer: asset, band, and of the last one its own scale.
LANDSAT = [("blue", "SR_B2"), ("red", "SR_B4"), ("nir08", "SR_B5"), ("swir16", "SR_B6"), ("lwir11", "ST_B10")]
# HLS: band of S30 and its common name; the Planetary Computer states the names, LPCLOUD does not.
S30 = {"B02": "blue", "B05": "rededge071", "B8A": "nir08", "B11": "swir16"}


def item(name, assets, **properties):
    """Return an Item; its geometry is not that of the rasters, which count."""
    ring = [[14.9, 47.7], [16.5, 47.7], [16.5, 48.8], [14.9, 48.8], [14.9, 47.7]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [14.9, 47.7, 16.5, 48.8],
        "properties": {"datetime": "2023-06-10T10:00:31.024000Z", **properties},
        "links": [],
        "assets": assets,
    }


def numbers(value, metres, dtype="uint16"):
    return np.full((EXTENT // metres, EXTENT // metres), value, dtype)


def earth_search(folder, write_raster, *, applied=True, **properties):
    """Write a Sentinel-2 Item of Earth Search; band i has the number 1000 + 100 i."""
    assets = {}
    for number, (key, file, common, wave, metres) in enumerate(EARTH_SEARCH, 1):
        write_raster(folder / f"{file}.tif", numbers(1000 + 100 * number, metres), transform=grid(metres))
        facts = {
            "roles": ["data", "reflectance"],
            "gsd": metres,
            "eo:bands": [{"name": key, "common_name": common, "center_wavelength": wave}],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}],
        }
        assets[f"{key}-jp2"] = {"href": f"s3://sentinel-s2-l2a/{file}.jp2", "type": "image/jp2", **facts}
        assets[key] = {"href": f"./{file}.tif", "type": COG, **facts}
    colours = [{"name": name, "common_name": name} for name in ("red", "green", "blue")]
    assets["visual"] = {"href": "./TCI.tif", "type": COG, "roles": ["visual"], "eo:bands": colours}
    assets["thumbnail"] = {"href": "./thumbnail.jpg", "type": "image/jpeg", "roles": ["thumbnail"]}
    classes = numbers(4, 20, "uint8")
    classes[:8] = 9  # a quarter is cloud
    write_raster(folder / "SCL.tif", classes, transform=grid(20))
    assets["scl"] = {"href": "./SCL.tif", "type": COG, "roles": ["data"], "raster:bands": [{"data_type": "uint8"}]}
    properties = {"eo:cloud_cover": 37.5, "earthsearch:boa_offset_applied": applied, **properties}
    return item("S2A_33UUP_20230610_0_L2A", assets, **properties) | {"collection": "sentinel-2-l2a"}


def landsat(folder, write_raster):
    """Write a Landsat Item of the Planetary Computer; band i has the number 8000 + 1000 i."""
    name = "LC08_L2SP_191027_20230610_02_T1"
    assets = {}
    for number, (key, band) in enumerate(LANDSAT, 1):
        write_raster(folder / f"{name}_{band}.TIF", numbers(8000 + 1000 * number, 10), transform=grid(10))
        thermal = band.startswith("ST")
        pair = {"scale": 0.00341802, "offset": 149.0} if thermal else {"scale": 2.75e-05, "offset": -0.2}
        assets[key] = {
            "href": f"{name}_{band}.TIF",
            "type": COG,
            "roles": ["temperature" if thermal else "reflectance"],
            "eo:bands": [{"name": band, "common_name": key}],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", **pair}],
        }
    write_raster(folder / f"{name}_QA_PIXEL.TIF", numbers(21824, 10), transform=grid(10))
    assets["qa_pixel"] = {"href": f"{name}_QA_PIXEL.TIF", "type": COG, "roles": ["cloud"]}
    return item(name, assets, **{"eo:cloud_cover": 3.1})


def hls(folder, write_raster, *, named):
    """Write an HLS S30 Item, of the Planetary Computer if its bands are named, else of LPCLOUD."""
    name = "HLS.S30.T33UUP.2023161T100031.v2.0"
    assets = {}
    for number, (band, common) in enumerate(S30.items(), 1):
        write_raster(folder / f"{name}.{band}.tif", numbers(1000 * number, 10, "int16"), transform=grid(10))
        assets[band] = {"href": f"{name}.{band}.tif"}
        if named:
            assets[band] |= {"type": COG, "roles": ["data"], "eo:bands": [{"name": band, "common_name": common}]}
    write_raster(folder / f"{name}.Fmask.tif", numbers(64, 10, "uint8"), transform=grid(10))
    assets["Fmask"] = {"href": f"{name}.Fmask.tif"}
    assets["browse"] = {"href": f"{name}.jpg", "type": "image/jpeg"}
    assets["metadata"] = {"href": "https://cmr.earthdata.nasa.gov/search/concepts/G1.xml", "type": "application/xml"}
    return item(name, assets, **{"eo:cloud_cover": 12})


def save(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))
    return path
