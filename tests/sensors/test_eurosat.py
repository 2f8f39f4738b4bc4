"""EuroSAT's own files."""

import numpy as np
import rasterio
from support_rasters import check_record

from rsr_cli.core import rasters


def test_eurosat(shared_data, cut):
    (folder,) = {path.parent for path in (shared_data / "eurosat_ms").glob("SeaLake/*.tif")}
    tiles = cut(folder, sensor="eurosat", labels_from_parent=True)
    assert len(tiles) == len(list(folder.glob("*.tif")))
    for tile in tiles[:5]:
        check_record(tile)
        with rasterio.open(tile["properties"]["source"]) as raster:
            truth = raster.read([2, 3, 4, 13, 11, 12])  # the six Prithvi bands
        read = rasters.read_pixels(tile, ["blue", "green", "red", "nir08", "swir16", "swir22"])
        np.testing.assert_array_equal(read, truth)
        assert tile["properties"]["labels"] == ["SeaLake"]
        # Water is darker the longer the wave, most of all in the bands that eurosat's order could confuse.
        assert read[0].mean() > read[2].mean() > read[4].mean()
