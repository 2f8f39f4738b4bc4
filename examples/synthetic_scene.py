"""Write a synthetic, labelled Sentinel-2-like scene, and label tiles from its land-cover mask.

    python synthetic_scene.py write OUTDIR [--size 2048] [--seed 0]
    rsr tile OUTDIR/scene.tif --size 64 | python synthetic_scene.py label OUTDIR/mask.tif > tiles.geojsonl

Nothing is downloaded. The scene imitates August in the Danube valley of Lower Bavaria: a river, lakes, towns, fields in
strips and wooded hills, at 10 m, as bottom-of-atmosphere reflectance x 10000. It does not show a real place.

The spectra in `COVERS` are rounded from published spectra, averaged over the bands of Sentinel-2:

- lake, river: the clear-water and lake-water spectra of 6S (Vermote et al. 1997, doi:10.1109/36.581987), the first
  darkened to a clear deep lake; the faint SWIR signal stands for the sky glint left in corrected products;
- forests, grassland: conifer, deciduous and green grass of the ECOSTRESS/ASTER library (Meerdink et al. 2019,
  doi:10.1016/j.rse.2019.05.015; Baldridge et al. 2009, doi:10.1016/j.rse.2008.11.007), darkened for the shade within
  a canopy (conifer x 0.4, deciduous x 0.7 in the near infrared and less elsewhere, grass x 0.7);
- crop: PROSAIL (Jacquemoud et al. 2009, doi:10.1016/j.rse.2008.01.026) at leaf area index 4 to 5;
- stubble: about one fifth dry grass of the ECOSTRESS/ASTER library, over bare soil;
- bare soil: between the mean soil of PROSAIL and the black loam of the ECOSTRESS/ASTER library;
- built-up: roof tiles, asphalt and concrete of SLUM (Kotthaus et al. 2014, doi:10.1016/j.isprsjprs.2014.05.005),
  one third gardens, and some shadow.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window
from scipy import fft, ndimage

BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")


class Cover(NamedTuple):
    """A land cover: its mean reflectance x 10000 in `BANDS`, and its variation (standard deviations)."""

    spectrum: tuple[int, ...]
    mixes_with: str  # another cover, which shows through
    mixing: float  # share of that cover, 0..1
    patch: float  # relative brightness from field to field
    grain: float  # relative texture of single pixels (crowns, roofs)
    swell: float  # relative texture that is some pixels wide (gaps, wet spots)
    colour: tuple[int, int, int]  # in the mask's colour table


COVERS = {
    "lake": Cover((260, 270, 150, 70, 40, 30), "river", 0.05, 0.03, 0.006, 0.01, (0, 60, 160)),
    "river": Cover((560, 770, 600, 200, 70, 50), "lake", 0.03, 0.03, 0.01, 0.02, (60, 140, 220)),
    "broadleaf_forest": Cover((250, 500, 250, 3700, 1750, 780), "conifer_forest", 0.18, 0.06, 0.07, 0.05, (60, 160, 0)),
    "conifer_forest": Cover((230, 380, 190, 2150, 900, 430), "broadleaf_forest", 0.18, 0.08, 0.08, 0.06, (0, 90, 50)),
    "grassland": Cover((350, 690, 410, 3400, 2150, 1130), "stubble", 0.12, 0.07, 0.02, 0.04, (170, 220, 110)),
    "crop": Cover((290, 600, 270, 4600, 1900, 820), "bare_soil", 0.10, 0.06, 0.02, 0.03, (230, 200, 50)),
    "stubble": Cover((840, 1170, 1590, 2850, 3600, 2650), "grassland", 0.14, 0.09, 0.02, 0.04, (240, 220, 170)),
    "bare_soil": Cover((640, 890, 1190, 1900, 2650, 2300), "crop", 0.06, 0.13, 0.02, 0.06, (150, 100, 60)),
    "built_up": Cover((700, 910, 1030, 2050, 2000, 1640), "grassland", 0.10, 0.08, 0.18, 0.05, (210, 60, 60)),
}
CODES = {name: code for code, name in enumerate(COVERS, start=1)}  # 0 is nodata


def _noise(rng, size, length_px, slope):
    """Return Gaussian noise (mean 0, deviation 1) with a power-law spectrum, flat for waves longer than `length_px`."""
    spectrum = fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    frequency2 = fft.fftfreq(size)[:, None] ** 2 + fft.rfftfreq(size)[None] ** 2
    spectrum *= ((frequency2 + length_px**-2.0) ** (-slope / 2)).astype(np.float32)
    field = fft.irfft2(spectrum, s=(size, size))
    return (field - field.mean()) / field.std()


def _cells(rng, size, spacing_px):
    """Return the Voronoi cell of each pixel for a jittered grid of seeds, and (rows, cols) of that cell's seed."""
    side = -(-size // spacing_px)
    corner = np.indices((side, side)).reshape(2, -1)
    row, col = np.minimum((corner + rng.random(corner.shape)) * spacing_px, size - 1).astype(int)
    seeds = np.full((size, size), -1, np.int32)
    seeds[row, col] = np.arange(row.size)
    nearest = tuple(ndimage.distance_transform_edt(seeds < 0, return_distances=False, return_indices=True))
    return seeds[nearest], nearest


def _draw_map(rng, size):
    """Return the land: its classes, and the fields that `_reflect` needs."""
    row, col = (axis.astype(np.float32) for axis in np.ogrid[:size, :size])
    chance = rng.standard_normal((8, 2**16), dtype=np.float32)  # random properties of parcels, by hash

    # Relief: hills, and a river that meanders through them from west to east.
    bends = [ndimage.gaussian_filter1d(rng.standard_normal(size + 1200), s)[600:-600] * s**0.5 for s in (200, 60)]
    course = (0.5 * size + 160 * bends[0] + 40 * bends[1]).astype(np.float32)
    away = np.abs(row - course) / np.hypot(1, np.gradient(course))
    plain = np.exp(-((away / 150) ** 2))
    relief = _noise(rng, size, 400, 2.8) + 1 - 1.8 * plain

    # Fields: blocks of parallel strips, with farm tracks between blocks; neighbouring blocks have similar directions.
    block, seed = _cells(rng, size, 75)
    turn, width, length = (
        rng.uniform(*span, block.max() + 1).astype(np.float32)[block] for span in ((-0.5, 0.5), (5, 13), (18, 45))
    )
    turn += _noise(rng, size, 200, 3)[seed]
    across, along = col * np.cos(turn) + row * np.sin(turn), row * np.cos(turn) - col * np.sin(turn)
    parcel = block * 73856093 ^ (across // width).astype(int) * 19349663 ^ (along // length).astype(int) * 83492791
    parcel = parcel.astype(np.uint16)
    track = (np.diff(block, axis=0, prepend=block[:1]) != 0) | (np.diff(block, axis=1, prepend=block[:, :1]) != 0)

    # Cover: fields at random, pasture in the plain and on slopes, woods on the hills, conifers higher up.
    lot = chance[0][parcel] + (0.6 * _noise(rng, size, 250, 2) + 0.8 * plain + 0.15 * relief)[seed]
    fields = np.array([CODES[name] for name in ("crop", "stubble", "bare_soil", "grassland")], np.uint8)
    classes = fields[np.digitize(lot, np.quantile(lot[::8, ::8], (0.32, 0.55, 0.70)))]
    stand = (_cells(rng, size, 24)[0] * 40503).astype(np.uint16)
    tall = 0.7 * chance[0][stand] + 0.6 * relief + 0.5 * _noise(rng, size, 150, 2)
    woods = relief + 0.4 * _noise(rng, size, 90, 2.2) + 0.25 * chance[1][parcel]
    wooded = (woods > np.quantile(woods[::8, ::8], 0.68)) | ((away < 26) & (tall > -0.6))
    classes[wooded] = CODES["broadleaf_forest"]
    classes[wooded & (tall > 0.9) & (away > 60)] = CODES["conifer_forest"]
    patch = np.where(wooded, stand, parcel)

    town, centre = _cells(rng, size, 230)
    radius = np.exp(rng.normal(3.3, 0.6, town.max() + 1)).clip(10, 80).astype(np.float32)[town]
    density = 1 - np.hypot(row - centre[0], col - centre[1]) / radius + 0.35 * _noise(rng, size, 60, 2.2)
    classes[density + 0.25 * chance[1][parcel] > 0] = CODES["built_up"]

    depth = _noise(rng, size, 130, 3.5) - 0.5 * np.abs(relief) - 2 * np.exp(-((away / 40) ** 2))
    depth -= np.quantile(depth[::8, ::8], 0.97)
    classes[depth > 0] = CODES["lake"]
    classes[away < 10 + 2 * _noise(rng, size, 100, 2)] = CODES["river"]
    patch[classes <= CODES["river"]] = 0  # no fields on the water
    lookup = {"classes": classes, "chance": chance, "patch": patch, "across": across, "along": along}
    return SimpleNamespace(**lookup, track=track, relief=relief, density=density, depth=depth)


def _reflect(rng, land):
    """Return the reflectance x 10000 of the land, float32 (6, size, size)."""
    classes, chance, patch = land.classes, land.chance, land.patch
    size = len(classes)
    water, built = classes <= CODES["river"], classes == CODES["built_up"]
    spectra = np.array([cover.spectrum for cover in COVERS.values()], np.float32)
    varies = np.array([cover[2:6] for cover in COVERS.values()], np.float32)
    mixing, uneven, grain, swell = (column[classes - 1] for column in varies.T)
    partner = np.array([CODES[cover.mixes_with] for cover in COVERS.values()])[classes - 1]

    # Share of the other cover: weeds, thin stands, shallows, gardens that get rarer towards the centre.
    white = rng.standard_normal((size, size), dtype=np.float32)
    share = mixing * (0.8 * chance[2][patch] + 0.6 * _noise(rng, size, 60, 1.8))
    share += np.where(classes == CODES["lake"], np.exp(-np.maximum(land.depth, 0) / 0.08), 0)
    street = built & ((land.across % 9 < 1) | (land.along % 14 < 1))
    share += built * (0.25 - 0.6 * land.density + 0.12 * white) - 0.25 * street
    works = built & (chance[3][patch] > 1.3)
    share = np.where(works, -0.3, share.clip(-0.3, 0.8)).astype(np.float32)

    # Brightness shared by the bands: texture, tramlines, large roofs, sun and shade on slopes, viewing angle.
    rows = chance[4][(patch + 7 * land.across.astype(int)) % 2**16]
    bright = 1 + grain * white + swell * _noise(rng, size, 20, 4) + 0.025 * rows * ((classes >= CODES["crop"]) & ~built)
    bright *= np.where(works, 1.5, 1) * np.where(street, 0.75, 1) * np.linspace(1.02, 0.98, size)
    slope = np.gradient(land.relief, axis=1) - np.gradient(land.relief, axis=0)
    bright *= np.where(water, 1, (1 - 0.07 * slope / slope.std()).clip(0.8, 1.2))

    scene = np.empty((6, size, size), np.float32)
    for band, own in enumerate((5, 5, 5, 6, 7, 7)):  # pigments, leaves and moisture vary independently
        ground = spectra[classes - 1, band] * (1 - share) + spectra[partner - 1, band] * share
        ground *= bright * np.exp(uneven * (0.8 * chance[4][patch] + 0.6 * chance[own][patch]))
        ground = np.where(land.track & ~water, 0.6 * ground + 0.4 * COVERS["built_up"].spectrum[band], ground)
        ground += rng.standard_normal((size, size), dtype=np.float32) * (20, 20, 20, 28, 14, 14)[band]
        # Blur of the sensor and of resampling (the last three bands are 20 m bands), then haze in the east.
        scene[band] = ndimage.gaussian_filter(ground, 0.6 if band < 3 else 1.0)
        scene[band] += np.linspace(0.5, 1, size) * (60, 35, 20, 8, 3, 2)[band]
    return scene


def draw_scene(size, seed):
    """Return a random landscape and its reflectance.

    Parameters
    ----------
    size : int
        Number of rows and of columns; a pixel is 10 m wide.
    seed : int
        The same seed returns the same scene.

    Returns
    -------
    scene : numpy.ndarray
        uint16 (6, size, size), reflectance x 10000 in the order of `BANDS`, 0 is nodata.
    classes : numpy.ndarray
        uint8 (size, size), values of `CODES`, 0 is nodata.
    """
    rng = np.random.default_rng(seed)
    land = _draw_map(rng, size)
    scene = _reflect(rng, land).round().clip(1, 10000).astype(np.uint16)
    row, col = np.ogrid[:size, :size]
    swath = col >= 0.12 * size - 0.3 * row  # the western edge of a descending orbit
    return scene * swath, land.classes * swath


def write_scene(directory, size=2048, seed=0):
    """Write `scene.tif` and `mask.tif`, the two results of `draw_scene`, to a directory."""
    scene, classes = draw_scene(size, seed)
    directory.mkdir(parents=True, exist_ok=True)
    grid = {"width": size, "height": size, "crs": "EPSG:32633", "transform": from_origin(330000, 5430000, 10, 10)}
    profile = {**grid, "driver": "GTiff", "nodata": 0, "tiled": True, "compress": "deflate"}
    with rasterio.open(directory / "scene.tif", "w", **profile, count=6, dtype="uint16", predictor=2) as raster:
        raster.descriptions = BANDS
        raster.update_tags(TIFFTAG_IMAGEDESCRIPTION="Synthetic scene, reflectance x 10000; not a satellite image")
        raster.write(scene)
    with rasterio.open(directory / "mask.tif", "w", **profile, count=1, dtype="uint8") as raster:
        raster.write_colormap(1, {0: (0, 0, 0, 0), **{CODES[name]: (*COVERS[name].colour, 255) for name in COVERS}})
        raster.update_tags(1, **{f"CLASS_{code}": name for name, code in CODES.items()})
        raster.write(classes, 1)


def label_tiles(lines, mask, share=0.2):
    """Label tiles by the classes in their windows.

    Parameters
    ----------
    lines : iterable of str
        GeoJSON Features, one per line, with `properties.window` = [col_off, row_off, width, height] on the mask's grid.
    mask : str or pathlib.Path
        Raster of classes, uint8; 0 is nodata, the band tags CLASS_<value> name the classes.
    share : float
        Minimum share of the tile's valid pixels that a class must cover.

    Yields
    ------
    str
        The Feature with `properties.labels`, names of classes in alphabetical order.

    Raises
    ------
    ValueError
        A line is not a tile, or the mask names no classes.
    """
    with rasterio.open(mask) as raster:
        names = {int(key[6:]): name for key, name in raster.tags(1).items() if key.startswith("CLASS_")}
        if not names:
            raise ValueError(f"{mask}: has no band tag CLASS_<value> to name a class")
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line.lstrip("\x1e"))
                window = Window(*record["properties"]["window"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"line {number}: not a GeoJSON Feature with properties.window") from None
            # Of a padded tile, only the part inside the mask is read.
            count = np.bincount(raster.read(1, window=window).ravel(), minlength=256)
            cover = count / max(1, count[1:].sum())
            record["properties"]["labels"] = sorted(name for code, name in names.items() if cover[code] >= share)
            yield json.dumps(record, ensure_ascii=False)


def main():
    """Run a subcommand."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # let `| head` end the program, like any Unix filter
    parser = argparse.ArgumentParser(description="A synthetic, labelled Sentinel-2-like scene.")
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write scene.tif and mask.tif")
    write.add_argument("directory", metavar="OUTDIR", type=Path)
    write.add_argument("--size", type=int, default=2048, help="rows and columns, 10 m each (default %(default)s)")
    write.add_argument("--seed", type=int, default=0, help="random seed (default %(default)s)")
    label = commands.add_parser("label", help="label the tiles on standard input")
    label.add_argument("mask", metavar="MASK", type=Path)
    label.add_argument(
        "--share", type=float, default=0.2, help="minimum share of a tile's pixels (default %(default)s)"
    )
    args = parser.parse_args()
    try:
        if args.command == "write":
            if args.size < 64 or args.seed < 0:
                parser.error("--size must be at least 64, --seed at least 0")
            write_scene(args.directory, args.size, args.seed)
        else:
            for line in label_tiles(sys.stdin, args.mask, args.share):
                print(line, flush=True)  # the next program in the pipe starts with the first tile
    except (OSError, ValueError) as error:
        sys.exit(f"synthetic_scene.py {args.command}: {error}")


if __name__ == "__main__":
    main()
