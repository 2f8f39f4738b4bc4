"""Write miniature copies of the paper's datasets, and checkpoints of random weights, to try out the experiments.

    python miniature.py OUT [--val 4] [--test 8] [--seed 0]

The layouts match the downloads: BigEarthNet-S2 v1.0 (a directory per patch with one file per band and a JSON file of
labels, and lists of the splits) and ForestNet (CSV files of the splits, a PNG and an NPY file per example). The pixels
are cut from the synthetic landscape of ../synthetic_scene.py and labelled by its land cover. Scores of this data mean
nothing.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1]))
from synthetic_scene import BANDS, CODES, draw_scene

SCENE_PX = 1300
PATCH_PX = 120
EXAMPLE_PX = 332
#: Land cover of the scene -> class of CORINE Land Cover, one of the 43 of BigEarthNet.
CORINE = {
    "lake": "Water bodies",
    "river": "Water courses",
    "broadleaf_forest": "Broad-leaved forest",
    "conifer_forest": "Coniferous forest",
    "grassland": "Pastures",
    "crop": "Non-irrigated arable land",
    "stubble": "Non-irrigated arable land",
    "bare_soil": "Mineral extraction sites",  # not among the 19
    "built_up": "Discontinuous urban fabric",
}
#: Land cover of the scene -> one of the 12 classes of ForestNet, and the one of 4 that it is merged into.
DRIVERS = {
    "lake": ("Fish pond", "Other"),
    "river": ("Other", "Other"),
    "broadleaf_forest": ("Secondary forest", "Other"),
    "conifer_forest": ("Timber plantation", "Plantation"),
    "grassland": ("Grassland shrubland", "Grassland shrubland"),
    "crop": ("Oil palm plantation", "Plantation"),
    "stubble": ("Small-scale agriculture", "Smallholder agriculture"),
    "bare_soil": ("Mining", "Other"),
    "built_up": ("Logging", "Other"),
}
#: Band of Sentinel-2 -> band of the scene that stands in for it, and pixel size in metres.
SENTINEL2 = {
    "B01": ("blue", 60),
    "B02": ("blue", 10),
    "B03": ("green", 10),
    "B04": ("red", 10),
    "B05": ("red", 20),
    "B06": ("nir08", 20),
    "B07": ("nir08", 20),
    "B08": ("nir08", 10),
    "B8A": ("nir08", 20),
    "B09": ("nir08", 60),
    "B11": ("swir16", 20),
    "B12": ("swir22", 20),
}


def cuts(scene, classes, size, rng):
    """Yield random squares without nodata: pixels (6, size, size), names of land covers, (column, row) of a corner."""
    names = {code: name for name, code in CODES.items()}
    while True:
        row, column = rng.integers(0, np.array(classes.shape) - size)
        window = np.s_[row : row + size, column : column + size]
        if (classes[window] == 0).any():
            continue
        counts = np.bincount(classes[window].ravel(), minlength=max(names) + 1)
        covers = [names[code] for code in np.argsort(-counts, kind="stable") if counts[code] > 0.1 * size**2]
        yield scene[(slice(None), *window)], covers, (int(column), int(row))


def write_bigearthnet(folder, splits, seed=0):
    """Write BigEarthNet-S2 v1.0; ``splits`` maps the name of a split to its number of patches."""
    rng = np.random.default_rng(seed)
    patches = cuts(*draw_scene(SCENE_PX, seed), PATCH_PX, rng)
    for split, count in splits.items():
        rows = []
        for number in range(count):
            pixels, covers, (column, row) = next(patches)
            name = f"S2A_MSIL2A_20170613T101031_{column}_{row}"
            place = folder / "BigEarthNet-v1.0" / name
            place.mkdir(parents=True, exist_ok=True)
            west, north = 330000 + 10 * column, 5430000 - 10 * row
            for band, (stand_in, metres) in SENTINEL2.items():
                step = metres // 10
                values = ndimage.uniform_filter(pixels[BANDS.index(stand_in)], step)[
                    step // 2 :: step, step // 2 :: step
                ]
                with rasterio.open(
                    place / f"{name}_{band}.tif", "w", driver="GTiff", dtype="uint16", count=1, crs="EPSG:32633",
                    width=values.shape[1], height=values.shape[0], transform=from_origin(west, north, metres, metres),
                ) as raster:  # fmt: skip
                    raster.write(values, 1)
            labels = list(dict.fromkeys(CORINE[cover] for cover in covers))
            facts = {"labels": labels, "acquisition_date": "2017-06-13 10:10:31"}
            (place / f"{name}_labels_metadata.json").write_text(json.dumps(facts))
            rows.append([name, f"S1A_IW_GRDH_1SDV_{number}"])
        write_rows(folder / f"{split}.csv", rows)


def write_forestnet(folder, splits, seed=0):
    """Write ForestNet; ``splits`` maps the name of a split to its number of examples."""
    rng = np.random.default_rng(seed)
    examples = cuts(*draw_scene(SCENE_PX, seed), EXAMPLE_PX, rng)
    for split, count in splits.items():
        rows = [["label", "merged_label", "latitude", "longitude", "year", "example_path"]]
        for _ in range(count):
            pixels, covers, (column, row) = next(examples)
            latitude, longitude = round(-1 - row / 1000, 3), round(101 + column / 1000, 3)
            path = f"examples/{latitude}_{longitude}"
            values = np.clip(pixels / 10000 * 255, 0, 255).round().astype(np.uint8)
            blue, green, red, *infrared = values
            images = folder / path / "images"
            for kind in ("visible", "infrared"):
                (images / kind).mkdir(parents=True, exist_ok=True)
            with rasterio.open(
                images / "visible/composite.png", "w", driver="PNG", dtype="uint8", count=3,
                width=EXAMPLE_PX, height=EXAMPLE_PX,
            ) as raster:  # fmt: skip
                raster.write(np.stack([red, green, blue]))
            np.save(images / "infrared/composite.npy", np.stack(infrared, axis=-1))
            rows.append([*DRIVERS[covers[0]], latitude, longitude, 2001 + column % 15, path])
        write_rows(folder / f"{split}.csv", rows)


def write_rows(path, rows):
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_weights(folder):
    """Write random weights of Prithvi-100M and ViT-B/16 in the layouts of the published files."""
    import torch
    from terratorch.registry import BACKBONE_REGISTRY
    from torchvision.models import vit_b_16

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    prithvi = BACKBONE_REGISTRY.build("prithvi_eo_v1_100", pretrained=False, num_frames=1).state_dict()
    torch.save({f"encoder.{name}": weight for name, weight in prithvi.items()}, folder / "Prithvi_EO_V1_100M.pt")
    torch.save(vit_b_16().state_dict(), folder / "vit_b_16-c867db91.pth")


def main():
    """Write data and weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="OUT", help="directory to write data/ and weights/ to")
    parser.add_argument("--val", type=int, default=4, help="queries per dataset (default %(default)s)")
    parser.add_argument("--test", type=int, default=8, help="database items per dataset (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default %(default)s)")
    args = parser.parse_args()
    splits = {"val": args.val, "test": args.test}
    write_bigearthnet(args.folder / "data" / "BigEarthNet", splits, args.seed)
    write_forestnet(args.folder / "data" / "ForestNetDataset", splits, args.seed)
    write_weights(args.folder / "weights")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
