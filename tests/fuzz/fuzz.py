"""Fuzz what reads files of strangers: any exception but `RsrError`, a hang, a crash or too much memory is a finding.

``make fuzz`` runs every target; ``python tests/fuzz/fuzz.py TARGET DIRECTORY [OPTION...]`` runs one, with libFuzzer's
own options. DIRECTORY keeps the corpus from one run to the next, and the input of a finding.
"""

from __future__ import annotations

import gc
import gzip
import io
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atheris

with atheris.instrument_imports(include=["rsr_cli"]):
    import numpy as np
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq
    import rasterio

    from rsr_cli.commands.info import info
    from rsr_cli.core.codes.base import binarize
    from rsr_cli.core.errors import RsrError, Skips
    from rsr_cli.core.index.integrity import check
    from rsr_cli.core.index.manifest import MANIFEST, _digest
    from rsr_cli.core.index.reading import Index
    from rsr_cli.core.rasters import Around, SceneSettings, Tiler, WindowSettings, parse_grid
    from rsr_cli.core.records import streams
    from rsr_cli.core.records.facts import Fact
    from rsr_cli.core.records.fields import scene_of
    from rsr_cli.core.records.space import KINDS
    from rsr_cli.core.records.summary import Summary
    from rsr_cli.core.records.tables import TableSettings
    from rsr_cli.core.sources.stac import Stac
    from rsr_cli.remedies import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Options of libFuzzer: a run of an input that takes this many seconds is a hang, and this many MB are too many.
LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=65536")
#: What is raised where a file cannot be made of what was drawn.
UNFIT = (ValueError, TypeError, OverflowError, RuntimeWarning)
PLACE = Path(tempfile.mkdtemp(prefix="rsr-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def attempt(work: Callable[[], object]) -> None:
    """Do something that may fail, but only as the user may see it: in one line of visible characters."""
    try:
        work()
    except RsrError as error:
        line = explain(error)
        if "\n" in line or "\x1b" in line or "\0" in line:
            raise AssertionError(repr(line)) from error
    finally:
        gc.collect()


def read(path: Path, data: atheris.FuzzedDataProvider, settings: TableSettings) -> None:
    """Read a file of records as every command does."""
    keep_going = data.ConsumeBool()
    kinds = data.PickValueInList([(), KINDS, ("embedding",), ("code",)])

    def work() -> None:
        skips, summary = Skips(keep_going=keep_going, explain=explain), Summary()
        for batch in streams.read([str(path)], skips, kinds, settings=settings):
            summary.add(batch, skips)
            batch.apply(lambda record: (Fact.of(record), scene_of(record)), skips)
            orjson.dumps(summary.as_dict())

    attempt(work)
    output = data.PickValueInList(["out.geojsonl", "out.parquet"])
    method = data.PickValueInList(["sign", "rotated", "trivial"])

    def convert() -> None:
        skips = Skips(keep_going=keep_going, explain=explain)
        batches = streams.read([str(path)], skips, ("embedding",) if kinds == KINDS else (), settings=settings)
        with streams.Writer(str(PLACE / output), skips, overwrite=True) as out:
            for batch in binarize(batches, method, 8, None) if kinds == KINDS else batches:
                out.write(batch)

    attempt(convert)


# Targets -------------------------------------------------------------------------------------------------------------


def records(content: bytes) -> None:
    """JSON lines, plain and compressed, and the vectors in them."""
    data, content = options_of(content)
    ending = data.PickValueInList(["", ".gz", ".zst"])
    path = PLACE / f"x.geojsonl{ending}"
    if ending == ".gz" and data.ConsumeBool():
        content = gzip.compress(content, 1)
    elif ending == ".zst" and data.ConsumeBool():
        content = pa.Codec("zstd").compress(content, asbytes=True)
    path.write_bytes(content)
    read(path, data, TableSettings(space=data.PickValueInList([None, "a"])))


def parquet(content: bytes) -> None:
    """Parquet, of rsr and of others."""
    data, content = options_of(content)
    path = PLACE / "x.parquet"
    path.write_bytes(content)
    if data.ConsumeBool():
        with suppress(pa.ArrowException, *UNFIT):
            make_table(path, atheris.FuzzedDataProvider(content))
    columns = data.PickValueInList([(None, None), ("vector", None), ("embedding", "name"), (None, "id")])
    read(path, data, TableSettings(data.PickValueInList([None, "a"]), *columns))


def manifest(content: bytes) -> None:
    """The manifest of an index whose other files are sound."""
    data, content = options_of(content)
    index = PLACE / "lake.rsr"
    if data.ConsumeBool():  # past the check of its sha256
        with suppress(ValueError, TypeError):
            facts = orjson.loads(content)
            if isinstance(facts, dict):
                content = orjson.dumps({**facts, "sha256": _digest(facts)})
    (index / MANIFEST).write_bytes(content)

    def work() -> None:
        with Index(index) as opened:
            space = opened.manifest.space
            if space is not None:
                queries = np.zeros_like(opened.segments[0].vectors[:1])
                opened.search(queries, 3)
                opened.search(queries, 1, **data.PickValueInList([{}, {"probe": 1}, {"recall": 0.1}, {"recall": 0.9}]))
                opened.binarizer_for(space)
                opened.binarizer_for(space.of_embedding())
                opened.find("scene_0_0")
                opened.record(0)

    attempt(work)
    attempt(lambda: sum(check(index, explain)))
    attempt(lambda: info.main([str(index), "-o", str(PLACE / "info.txt"), "--overwrite"], standalone_mode=False))


def tiles(content: bytes) -> None:
    """The planner of tiles: rasters of any grid, bytes in place of a GeoTIFF, and STAC Items."""
    data, content = options_of(content)
    kind = data.PickValueInList(["made", "bytes", "item"])
    if kind == "bytes":
        source = PLACE / "x.tif"
        source.write_bytes(content)
    elif kind == "item":
        source = PLACE / "x.json"
        source.write_bytes(content)
    else:
        source = PLACE / "made.tif"
        facts = atheris.FuzzedDataProvider(content)
        with suppress(rasterio.errors.RasterioError, rasterio.errors.CRSError, *UNFIT):
            make_raster(source, facts)
    size, stride = (data.PickValueInList([1, 3, 8, 16, 64, 1 << 15]) for _ in range(2))
    edge = data.PickValueInList(["drop", "pad", "shift"])
    grids = [None, *map(parse_grid, ("major-tom:10km", "major-tom:100m"))]
    windows = WindowSettings(
        size,
        stride,
        edge,
        data.ConsumeBool(),
        data.PickValueInList(grids),
        data.PickValueInList([None, 0, 0.5, 1]),
        data.PickValueInList([None, None, Around(((15.0, 48.0), (179.9999, -80.0)), 4, 4)]),
    )
    scenes = SceneSettings(
        bands=data.PickValueInList([None, ("red",), ("red", "nir08")]),
        scale=data.PickValueInList([None, 1.0]),
        offset=data.PickValueInList([None, 0.0]),
        nodata=data.PickValueInList([None, 0.0, -9999.5]),
    )
    skips = Skips(keep_going=data.ConsumeBool(), explain=explain)

    def work() -> None:
        tiler = Tiler(Stac(None, scenes.bands), scenes, windows, skips)
        for row in islice(tiler.cut(tiler.find([str(source)])), 4):
            for tile in row[:64]:
                orjson.dumps(tile)
                Fact.of(tile)

    attempt(work)


def make_table(path: Path, facts: atheris.FuzzedDataProvider) -> None:
    """Write a table whose columns have known names and any types."""
    length, columns = facts.ConsumeIntInRange(0, 3), {}
    for _ in range(facts.ConsumeIntInRange(1, 5)):
        values = facts.PickValueInList(VALUES)
        values = [facts.PickValueInList([None, *values]) for _ in range(length)]
        name, kind = facts.PickValueInList(COLUMNS), facts.PickValueInList(TYPES)
        if kind == MAP:  # of which pyarrow aborts at any other value
            values = [None, [], [("a", 1)]][:length]
        columns[name] = pa.array(values, kind)
    footer = {}
    for name in ("geo", "emb", "rsr"):
        stated = facts.PickValueInList([None, *FOOTERS])
        if stated is not None:
            footer[name] = stated if facts.ConsumeBool() else facts.ConsumeUnicodeNoSurrogates(40)
    pq.write_table(pa.table(columns).replace_schema_metadata(footer), path)


def make_raster(path: Path, facts: atheris.FuzzedDataProvider) -> None:
    """Write a small GeoTIFF whose place and numbers are anything."""
    height, width, count = (facts.ConsumeIntInRange(1, high) for high in (70, 70, 3))
    dtype = facts.PickValueInList(["uint8", "uint16", "int16", "float32", "float64", "int32", "complex64"])
    crs = facts.PickValueInList([None, "EPSG:4326", "EPSG:32633", "EPSG:3857", "EPSG:3031", "ESRI:54008", "EPSG:3035"])
    coefficients = [facts.PickValueInList([0.0, 1.0, -1.0, 10.0, 180.0, 5e6, facts.ConsumeFloat()]) for _ in range(6)]
    gcps = [
        rasterio.control.GroundControlPoint(*(facts.ConsumeRegularFloat() for _ in range(4)))
        for _ in range(facts.PickValueInList([0, 0, 0, 1, 3, 7]))
    ]
    transform = rasterio.Affine(*coefficients)
    place = {"gcps": gcps, "crs": crs or "EPSG:4326"} if gcps else {"transform": transform, "crs": crs}
    nodata = facts.PickValueInList([None, 0, 255, float("nan"), -1e300])
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": dtype, "nodata": nodata}
    with rasterio.open(path, "w", **profile, **place) as raster:
        raster.write(np.full((count, height, width), facts.ConsumeIntInRange(0, 255), dtype))
        raster.descriptions = [facts.PickValueInList(["red", "nir08", "B04", "", "a\nb"]) for _ in range(count)]
        if facts.ConsumeBool():
            raster.scales = [facts.ConsumeFloat() for _ in range(count)]
            raster.offsets = [facts.ConsumeFloat() for _ in range(count)]


def options_of(content: bytes) -> tuple[atheris.FuzzedDataProvider, bytes]:
    """Return the last 16 bytes of an input as the options of a run, and the others as the content of a file."""
    return atheris.FuzzedDataProvider(content[-16:]), content[:-16]


#: Names of columns that mean something, values, types and footers that they may have, each with any other.
COLUMNS = [
    *("id", "name", "embedding", "vector", "code", "embedding_space", "code_space", "rsr_record", "geometry", "bbox"),
    *("labels", "datetime", "time", "gsd", "source", "bands", "window", "query", "rank", "distance", "chips_id", "A00"),
]
VALUES: list[list[Any]] = [
    ["a", "", "{}", "[1]", '{"type":"Feature"}', "POINT (1 2)", "x" * 3000, "\0", "2023-13-40T00:00:00Z"],
    ['{"model":"m","fingerprint":"f","dim":2,"dtype":"float32"}', '{"fingerprint":1}', '{"dim":1e999}'],
    ["[" * 300, '{"type":"Feature","id":"a","geometry":null,"properties":{}}'],
    [b"", b"\xff", b"\x01\x01\0\0\0" + bytes(16), b"\x01\x07\0\0\0\xff\xff\xff\xff", bytes(16)],
    [b"\x01\x01\0\0\0" + np.array(place, "<f8").tobytes() for place in ((1, 2), (1e300, 0), (-1e12, 1e6))],
    [0, 1, -1, 1 << 31, (1 << 63) - 1, 1.5, 1e308, float("nan"), float("inf")],
    [[], [1.0, 2.0], [float("nan")], [1e38, 1e308], [0] * 40, ["a"], [None]],
    [[[1.0]], [[1.0], [2.0]], [[]]],
    [{"xmin": 1.0, "ymin": 2.0, "xmax": float("nan"), "ymax": 0.0}, {"a": {"b": [1]}}],
]
MAP = pa.map_(pa.string(), pa.int64())
TYPES = [
    *(None, None, None, pa.string(), pa.large_string(), pa.binary(), pa.binary(16), pa.int64(), pa.uint64(), pa.int8()),
    *(pa.float16(), pa.float64(), pa.bool_(), pa.timestamp("ns"), pa.timestamp("s", "Europe/Berlin"), pa.date64()),
    *(pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.float64()), pa.list_(pa.list_(pa.float32()))),
    *(pa.list_(pa.string()), pa.list_(pa.int8()), pa.decimal128(20, 3), pa.duration("s"), pa.time64("ns"), pa.null()),
    *(pa.dictionary(pa.int32(), pa.string()), MAP, pa.struct([("xmin", pa.float32())])),
]
FOOTERS = [
    *("{", "[]", '{"version":"1.1.0","primary_column":"geometry","columns":{"geometry":{"encoding":"WKB"}}}'),
    *('{"columns":{"geometry":{"encoding":"WKB","crs":{"id":{"authority":"EPSG","code":32633}}}}}', '{"columns":[]}'),
    *('{"columns":{"geometry":{"crs":{"id":[]}}}}', '{"columns":{"geometry":{"crs":"EPSG:3857"}}}'),
    *('{"primary_column":7}', '{"columns":{"geometry":{"crs":"x"}}}', '{"model":{"id":[]}}', '{"model":"m","scale":0}'),
    *(
        '{"quantization":{"scale":[1,2],"offset":"a"}}',
        '{"members":7}',
        '{"members":["id"],"nulls":{}}',
        '{"nulls":[[]]}',
    ),
]


# Mutations -----------------------------------------------------------------------------------------------------------

#: What takes the place of a value of JSON.
HOSTILE = (
    *(None, True, -1, 0, 1, 0.5, 255, 1 << 31, 1 << 53, -(1 << 63), (1 << 64) - 1, 1e-320, -1e308, 1e15),
    *(
        "",
        "a",
        "../a",
        "/etc/passwd",
        "\0",
        "\x1b[2J\n",
        "\u202e",
        "x" * 5000,
        "1e999",
        "2023-13-40",
        "int8",
        "float32",
    ),
    *([], {}, [[]], [None], [1, 2, 3, 4], [1e308] * 6, {"type": "Polygon", "coordinates": []}, ["a"] * 300),
)


def mutate(content: bytes, size: int, seed: int) -> bytes:
    """Replace, remove, repeat or rename a value in a line of JSON; every other time, and of other bytes, any bytes."""
    draw = random.Random(seed)
    lines, options = content[:-16].split(b"\n"), content[-16:]
    number = draw.randrange(len(lines))
    with suppress(ValueError, TypeError, RecursionError):
        if draw.random() < 0.5:
            holder = {"": orjson.loads(lines[number])}
            change(holder, draw)
            lines[number] = orjson.dumps(holder.get(""))
            return (b"\n".join(lines) + options)[:size]
    return atheris.Mutate(content, size)


def change(holder: dict[str, Any], draw: random.Random) -> None:
    """Change one value, at any depth, in place."""
    places: list[tuple[Any, Any]] = [(holder, "")]
    for inside, key in places:
        value = inside[key]
        if isinstance(value, dict | list) and len(places) < 10_000:
            places += [(value, each) for each in (value if isinstance(value, dict) else range(len(value)))]
    inside, key = draw.choice(places)
    other, another = draw.choice(places)
    match draw.randrange(5):
        case 0:
            del inside[key]
        case 1:
            inside[key] = orjson.loads(orjson.dumps(other[another]))
        case 2:
            inside[key] = orjson.loads(b"[" * 200 + b"1" + b"]" * 200)
        case _:
            inside[key] = draw.choice(HOSTILE)


# Seeds ---------------------------------------------------------------------------------------------------------------


def run(*words: object) -> None:
    """Run the real ``rsr``."""
    subprocess.run([sys.executable, "-m", "rsr_cli.main", *map(str, words)], check=True, capture_output=True)


def make_files() -> None:
    """Let the commands write what the targets start from: a scene, its tiles, their embeddings and codes, an index."""
    draw = np.random.default_rng(0)
    profile = {"driver": "GTiff", "height": 64, "width": 64, "count": 2, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(
        PLACE / "scene.tif", "w", **profile, transform=rasterio.Affine(10, 0, 6e5, 0, -10, 53e5)
    ) as scene:
        scene.write(draw.integers(200, 3000, (2, 64, 64)).astype("uint16"))
        scene.descriptions = ["red", "nir08"]
    run("tile", "--size", 16, PLACE / "scene.tif", "-o", PLACE / "tiles.geojsonl")
    lines = []
    for tile in (PLACE / "tiles.geojsonl").read_bytes().splitlines():
        record = orjson.loads(tile)
        record["properties"] |= {"labels": ["lake"], "datetime": "2023-06-10T10:00:31Z"}
        record["properties"]["embedding"] = draw.normal(size=8).tolist()
        lines.append(orjson.dumps(record))
    (PLACE / "lists.geojsonl").write_bytes(b"\n".join(lines))
    run("binarize", "--keep-embedding", "--space", "a", PLACE / "lists.geojsonl", "-o", PLACE / "codes.geojsonl")
    run("binarize", "--keep-embedding", "--space", "a", PLACE / "lists.geojsonl", "-o", PLACE / "codes.parquet")
    run("index", "--refine", "int8", "--partitions", 2, PLACE / "codes.geojsonl", "-o", PLACE / "lake.rsr")


def seeds(target: str) -> Iterator[bytes]:
    """Yield the contents of files to begin with."""
    if target == "records":
        for name in ("tiles", "lists", "codes"):
            lines = (PLACE / f"{name}.geojsonl").read_bytes().splitlines()
            yield lines[0]
            yield b"\n".join(lines[:3])
            yield b"\x1e" + lines[0] + b"\r\n" + gzip.compress(lines[1])
        yield b'{"type":"Failure","command":"rsr embed","status":1,"message":"x"}\n'
        yield gzip.compress(lines[0])
        yield pa.Codec("zstd").compress(lines[0], asbytes=True)
    elif target == "manifest":
        yield (PLACE / "lake.rsr" / MANIFEST).read_bytes()
        yield orjson.dumps(orjson.loads((PLACE / "lake.rsr" / MANIFEST).read_bytes()))
    elif target == "parquet":
        yield (PLACE / "codes.parquet").read_bytes()
        table = pq.read_table(PLACE / "codes.parquet")
        names = pa.array([f"n{i}" for i in range(3)])
        vectors = pa.array([[0.5, -1.0]] * 3, pa.list_(pa.float32()))
        times = pa.array([0, 1, 2], pa.timestamp("us", "UTC"))
        other = pa.table({"name": names, "embedding": vectors, "datetime": times, "labels": [["a"], [], None]})
        nested = pa.table({"id": [1, 2, 3], "vector": [[[1.0]], [[2.0]], [[3.0]]], "x": [{"a": 1}, {"a": 2}, None]})
        yield bytes(range(256)) * 2
        for each in (table.slice(0, 2), other, nested):
            for codec in ("none", "zstd"):
                file = io.BytesIO()
                pq.write_table(each, file, compression=codec)
                yield file.getvalue()
    else:
        yield (PLACE / "scene.tif").read_bytes()
        yield bytes(range(256))
        bands = [{"name": "red", "common_name": "red"}, {"name": "nir08", "common_name": "nir08"}]
        assets = {"a": {"href": "./scene.tif", "type": "image/tiff", "roles": ["data"], "eo:bands": bands}}
        facts = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}] * 2, "gsd": 10}
        item = {"type": "Feature", "stac_version": "1.0.0", "id": "a", "geometry": None, "links": []}
        item |= {"properties": {"datetime": "2023-06-10T10:00:31Z", "eo:cloud_cover": 3}, "assets": assets}
        yield orjson.dumps(item)
        assets["a"] |= facts
        yield orjson.dumps({"type": "FeatureCollection", "features": [item, {**item, "id": "b"}]})
        links = [{"rel": "item", "href": "./x.json"}, {"rel": "child", "href": "./tiles.geojsonl"}]
        yield orjson.dumps({"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "", "links": links})


TARGETS = {each.__name__: each for each in (records, manifest, tiles, parquet)}


def main() -> None:
    """Run a target."""
    name, directory, *options = sys.argv[1:]
    logging.getLogger("rsr").setLevel(logging.CRITICAL)
    warnings.simplefilter("error", RuntimeWarning)  # numpy's, which would be lines on stderr
    corpus = Path(directory, name)
    corpus.mkdir(parents=True, exist_ok=True)
    make_files()
    for number, content in enumerate(seeds(name)):
        for kind in range(16):
            (corpus / f"seed-{number}-{kind}").write_bytes(content + bytes([kind]) * 16)
    arguments = [sys.argv[0], *LIMITS, f"-artifact_prefix={directory}/{name}-", *options, str(corpus)]
    atheris.Setup(arguments, TARGETS[name], **({} if name == "parquet" else {"custom_mutator": mutate}))
    gc.disable()  # or it may end a reader while a thread starts, which then waits for itself
    gc.freeze()
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)


if __name__ == "__main__":
    main()
