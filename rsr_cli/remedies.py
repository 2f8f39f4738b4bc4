"""What to type when the core raises an error: the core states facts, and this table names the option that helps."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsr_cli.core.errors import RsrError

#: Name of a remedy, as an error of the core carries it -> what a user types.
REMEDIES = {
    "allow-empty": "pass --allow-empty to build an index without rows, which does not replace one with rows",
    "as-file": "name it as a file",
    "as-index": "embed the queries with rsr embed --as {index}",
    "as-inputs": "pass an index, or a file of embeddings or codes",
    "as-tiles": "with --as, tiles must have every band that the index or file was made from",
    "bands": "pass --bands with one name per band, - for a band that is not used",
    "bands-alpha": "if it is not, pass --bands with a name for it too",
    "bands-described": "if the descriptions are right, leave --bands out",
    "bands-else": "pass --bands to name them, or - to leave them out",
    "batch-size": "pass a smaller --batch-size",
    "binarize": "pass the stream through rsr binarize",
    "bits": "pass --bits",
    "bits-method": "pass another --method for other lengths",
    "chips": "pass --chips with another directory",
    "compact": "one Feature per line is expected, as jq -c . writes them",
    "compress": "leave the ending out, or pipe the output through {program}",
    "crs": "write the file again with the CRS that its coordinates are in",
    "cut": "cut smaller tiles",
    "cut-off": "write the file again, or leave the line out with --keep-going",
    "datetime": "pass --datetime to rsr tile",
    "decompress": "decompress it with {program} -dc",
    "device": "leave out --device to use what is available",
    "download": "download the file elsewhere and pass --weights FILE",
    "embed": "pass the stream through rsr embed",
    "embedding": "pass the records as rsr embed wrote them, before rsr binarize",
    "fill-missing": "embed all with the bands that all have, as --model rcf:bands={bands} does, or pass --fill-missing",
    "id": "pass records of rsr tile, or add an id to each",
    "id-prefix": "name the directory above both, rename it, or tile it on its own with --id-prefix",
    "implausible": "check --scale and --offset: reflectance x 65535, for example, needs --scale 0.15259 --offset 0",
    "index-first": "pass the index before the records: rsr query INDEX INPUT",
    "index-in-place": "pass the records that it was built from; rsr query takes an index as its first argument",
    "indexed": "pass the records that were indexed",
    "label-list": 'write a list of one string too, as in ["lake"]',
    "labels": "label the tiles before rsr index, or pass the labels to --truth",
    "line-feeds": "convert it with tr '\\r' '\\n'",
    "lines": "one Feature per line is expected, as jq -c '.features[]' or ogr2ogr -f GeoJSONSeq writes them",
    "mask": "name one with --mask-file, relative to the directory of the scene",
    "min-valid": "pass --min-valid 0 to keep every tile",
    "models": "rsr models --all lists them",
    "no-defaults": "pass --bands, --mean, --std and --size",
    "no-valid-pixel": "leave such tiles out with rsr tile --min-valid, or pass --keep-going",
    "nodata": "pass the --nodata that the file has",
    "nodata-value": "if that marks invalid pixels, pass --nodata {value}",
    "offset": "pass --offset too",
    "offset-unknown": "pass --offset: -1000 if reflectance x 10000 = DN - 1000, else 0",
    "one-product": "put each product into a directory of its own",
    "one-run": "pass the hits of one run at a time",
    "openvino": "install it (pip install openvino), or pass another --precision",
    "other-bands": "embed bands that the tiles have, as --model rcf:bands={bands} does",
    "other-output": "pass another name to -o",
    "overwrite": "pass --overwrite to replace it",
    "per-band": "pass --per-band with the directory that contains all of them",
    "precision": "pass --precision fp32",
    "precision-else": "leave --precision out: int8 is for Prithvi and ViT-B/16",
    "proj-data": "unset PROJ_DATA and PROJ_LIB, which name the files of another installation",
    "qrels": "pass to --truth the qrels of these queries, with the ids that the hits state as query",
    "query": "pass the records through rsr query",
    "rebuild": "build it again with rsr index",
    "records": "pass records of tiles to rsr embed",
    "relative": "relative paths start in the directory where rsr tile ran: run this there, or tile absolute paths",
    "remove-index": "remove it first if you want an empty one",
    "same-space": "make both with the same settings, or keep them apart",
    "scale": "pass --scale and --offset: reflectance x 10000 = DN * scale + offset",
    "scale-else": "if that is wrong, pass --scale and --offset: reflectance x 10000 = DN * scale + offset",
    "scale-of-export": "pass --scale 0.15259 --offset 0 if it was",
    "seed": "leave --seed out",
    "sensor": "pass --sensor {sensor}",
    "sensor-else": "pass another --sensor, or leave it out",
    "sensor-linear": "pass --sensor sentinel1-power or sentinel1-amplitude",
    "sensor-named": "if it is one, pass that --sensor",
    "sensor-or-bands": "pass --sensor, or --bands with one name per band",
    "shown-bands": "choose one or three that it has, as in --bands {bands}",
    "size": "pass a smaller --size",
    "smaller": "pass --whole, a smaller --size, or --edge pad",
    "space": "pass --space NAME, the same name for all embeddings that may be compared",
    "sqlite-tmpdir": "set SQLITE_TMPDIR to a directory with more space",
    "stand-in": "pass --bands {bands} to read the nearest band that is there",
    "statistics": "pass both --mean and --std",
    "tile": "cut rasters into records with rsr tile",
    "tiled": "rewrite it in smaller ones with gdal_translate -co TILED=YES",
    "truth": "pass to --truth the records that were indexed",
    "unique-ids": "ids must be unique: see rsr tile --id-prefix, or pass --keep-going to leave the later one out",
    "unit-scale": "pass --scale 10000 --offset 0 if they are reflectance from 0 to 1",
    "utf-8": "convert it with iconv -f {encoding} -t UTF-8",
    "vector": "convert it with ogr2ogr -f GeoJSONSeq",
    "vector-column": "choose one with --vector-column",
    "weights": "pass --weights FILE",
    "zip": "unpack it, or pass it through unzip -p",
}


def explain(error: RsrError) -> str:
    """Return an error as one line: its place, what is wrong, and what helps."""
    if error.remedy is None:
        return str(error)
    facts = {name: shlex.quote(str(fact)) for name, fact in error.facts.items()}
    return f"{error}; {REMEDIES[error.remedy].format_map(facts)}"
