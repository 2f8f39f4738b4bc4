"""Every command line that writes something: what is there before it, what it writes, and how that is read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import orjson
import pytest
from support import embedding, needs_torch

SIX = ("blue", "green", "red", "nir08", "swir16", "swir22")


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes
    ----------
    name : str
        What the test of it is called.
    words : str
        Its words; the output is ``out`` and what follows in the second of these.
    given : str
        What is at the output's place before, by its name among the inputs; nothing if it is empty.
    grows : bool
        The output is a directory of files that appear one after the other.
    sweep : str
        A command line that succeeds whether or not the first one has been done, and writes to the same place.
    """

    name: str
    words: str
    given: str = ""
    grows: bool = False
    sweep: str = ""
    marks: tuple = field(default=(), compare=False)

    @property
    def arguments(self) -> list[str]:
        return self.words.split()

    @property
    def output(self) -> str:
        """The name of the output."""
        return next(word for word in self.arguments if word.startswith("out"))

    @property
    def swept(self) -> list[str]:
        """What is run in the end, to find whether all that was left behind goes away."""
        if self.sweep:
            return self.sweep.split()
        return [*self.arguments, *(() if self.grows or "--overwrite" in self.arguments else ("--overwrite",))]


COMPACT = "index -o out.rsr --compact"
COMMANDS = (
    Command("tile", "tile scene.tif --size 8 -o out.geojsonl"),
    Command("tile parts", "tile scene.tif scene_1.tif scene_2.tif --size 8 --parts out --part-size 64", grows=True),
    Command("tile to Parquet", "tile scene.tif --size 8 --hilbert -o out.parquet"),
    Command("embed", "embed tiles.geojsonl --model rcf -o out.parquet", marks=(needs_torch,)),
    Command(
        "embed parts",
        "embed tiles.geojsonl --model rcf --parts out --part-size 20 --part-format geojsonl",
        grows=True,
        marks=(needs_torch,),
    ),
    Command("fit", "fit in.geojsonl --method itq --bits 8 -o out.safetensors"),
    Command("transform", "transform in.geojsonl --with whiten.safetensors -o out.parquet"),
    Command("transform parts", "transform int8.parquet --dtype float16 --parts out --part-size 20", grows=True),
    Command("binarize", "binarize in.geojsonl -o out.geojsonl"),
    Command("binarize with a fit", "binarize in.geojsonl --with rabitq.safetensors -o out.geojsonl"),
    Command("binarize to zstd", "binarize in.geojsonl -o out.geojsonl.zst"),
    Command("binarize again", "binarize in.geojsonl -o out.parquet --overwrite", given="third.parquet"),
    Command("binarize parts", "binarize in.geojsonl --parts out --part-size 20", grows=True),
    Command("index", "index both.geojsonl -o out.rsr --refine int8 --partitions 3"),
    Command("index with a fit", "index int8.parquet --with whiten.safetensors -o out.rsr --partitions 2"),
    Command("index again", "index both.geojsonl -o out.rsr --overwrite", given="x.rsr", sweep=COMPACT),
    Command("index, append", "index in.geojsonl -o out.rsr --append", given="y.rsr", sweep=COMPACT),
    Command("index, delete", "index -o out.rsr --delete --label b", given="x.rsr", sweep=COMPACT),
    Command("index, compact", COMPACT, given="deleted.rsr", sweep=COMPACT),
    Command("index, merge", "index x.rsr y.rsr -o out.rsr", sweep="index x.rsr y.rsr -o out.rsr --overwrite"),
    Command("query", "query x.rsr in.geojsonl -k 5 -o out.geojsonl"),
    Command("query to TREC", "query x.rsr in.geojsonl -k 5 -o out.run --overwrite", given="hits.run"),
    Command("score", "score hits.geojsonl --format jsonl -o out.jsonl"),
    Command("score by truth", "score hits.geojsonl --truth in.geojsonl --exclude-self --metrics r@3 -o out.txt"),
    Command("show", "show hits.geojsonl --queries in.geojsonl --rows 1 -k 2 -o out.png"),
    Command("show a page", "show hits.geojsonl --queries in.geojsonl --rows 2 -k 2 -o out.html"),
    Command("show a map", "show of_one.geojsonl --map -o out.tif"),
    Command("plot", "plot other.geojsonl -o out.png"),
)

#: What is made before, in this order; `prepared` writes what these read.
MADE = (
    "tile scene.tif --size 8 -o tiles.geojsonl",
    "binarize third.geojsonl -o third.parquet",
    "binarize in.geojsonl --keep-embedding -o both.geojsonl",
    "fit in.geojsonl --method rabitq -o rabitq.safetensors",
    "fit in.geojsonl --method whiten --dims 4 -o whiten.safetensors",
    "transform in.geojsonl --with whiten.safetensors --dtype int8 -o int8.parquet",
    "index in.geojsonl -o x.rsr --partitions 2",
    "index other.geojsonl -o y.rsr",
    "index third.geojsonl -o z.rsr",
    "index x.rsr y.rsr -o deleted.rsr",
    "index -o deleted.rsr --delete --label a",
    "query x.rsr in.geojsonl -k 20 --exclude-self -o hits.geojsonl",
    "query x.rsr in.geojsonl -k 4 -o hits.run",
    "query x.rsr --id scene_0_0 --radius inf -o of_one.geojsonl",
)


def parameters(wanted: str = "") -> list:
    """Return the commands that have a word, each as a parameter of a test."""
    return [pytest.param(each, id=each.name, marks=each.marks) for each in COMMANDS if wanted in each.words]


def with_embeddings(tiles: list[dict], dim: int, begin: str, seed: int) -> bytes:
    """Give tiles random embeddings, labels, and ids of their own."""
    vectors = np.random.default_rng(seed).standard_normal((len(tiles), dim)).astype(np.float32)
    for tile, vector in zip(tiles, vectors, strict=True):
        tile["id"] = begin + tile["id"]
        tile["properties"] |= {"embedding": embedding(vector), "labels": ["abc"[int(vector[0] * 100) % 3]]}
    return b"".join(orjson.dumps(tile) + b"\n" for tile in tiles)


def write_inputs(directory, write_raster) -> None:
    """Write the scene, from which the first command makes tiles."""
    pixels = np.random.default_rng(1).integers(500, 3000, (6, 64, 64), dtype=np.uint16)
    write_raster(directory / "scene.tif", pixels, names=SIX)
    for i in (1, 2):
        write_raster(directory / f"scene_{i}.tif", pixels[:, i:], names=SIX)


def write_records(directory) -> None:
    """Write records with embeddings, of the tiles that were made."""
    lines = (directory / "tiles.geojsonl").read_bytes().splitlines()
    for name, count, begin in (("in", 64, ""), ("other", 20, "other_"), ("third", 12, "third_")):
        tiles = [orjson.loads(line) for line in lines[:count]]
        (directory / f"{name}.geojsonl").write_bytes(with_embeddings(tiles, 32, begin, count))
