"""``rsr fit`` and ``rsr transform`` as their user runs them, and what an index makes of them."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from itertools import product

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from support import bits_of, embedding_records, needs_torch

from rsr_cli.core.fitted.registry import FIT_METHODS

TRANSFORMS = [name for name, method in FIT_METHODS.items() if not method.is_code]


@pytest.fixture(scope="module")
def drawn():
    """Embeddings, float32 (540, 12), around a centre."""
    random = np.random.default_rng(2)
    return (random.standard_normal((540, 12)) * np.linspace(2, 0.5, 12) + 1).astype(np.float32)


@pytest.fixture(scope="module")
def files(rsr, lines, drawn, tmp_path_factory):
    """What each method learns of half of them: name -> path."""
    folder = tmp_path_factory.mktemp("fitted")
    for name, method in FIT_METHODS.items():
        size = (f"--{method.size}", "32" if name == "pq" else "5") if method.size else ()
        done = rsr(
            "fit", "--method", name, *size, "-o", folder / f"{name}.st", input=lines(embedding_records(drawn[:270]))
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return {name: folder / f"{name}.st" for name in FIT_METHODS}


def vectors(done):
    assert (done.returncode, done.stderr) == (0, b"")
    found = [orjson.loads(line)["properties"]["embedding"] for line in done.stdout.splitlines()]
    return np.array([np.frombuffer(base64.b64decode(each["data"]), "<f4") for each in found]), found[0]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_fewer_dimensions_in_fewer_bytes(rsr, lines, drawn, files, dtype):
    sent = lines(embedding_records(drawn))
    exact, _ = vectors(rsr("transform", "--with", files["whiten"], input=sent))
    done = rsr("transform", "--with", files["whiten"], "--dtype", dtype, input=sent)
    found = [orjson.loads(line)["properties"]["embedding"] for line in done.stdout.splitlines()]
    numbers = np.array([np.frombuffer(base64.b64decode(each["data"]), np.dtype(dtype)) for each in found], float)
    assert {each["dtype"] for each in found} == {dtype}
    scales = np.array([each.get("scale", 1) for each in found])[:, None]
    step = scales / 2 if dtype == "int8" else np.abs(exact) * 2.0**-11 + 2.0**-25
    assert (np.abs(numbers * scales - exact) <= step * 1.001).all()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_table_of_others_takes_fewer_bytes_as_it_is(rsr, drawn, tmp_path, dtype):
    np.save(tmp_path / "theirs.npy", drawn)
    made, path = tmp_path / "made.parquet", tmp_path / "lake.rsr"
    assert rsr("transform", "--dtype", dtype, "--space", "m", tmp_path / "theirs.npy", "-o", made).returncode == 0
    table = pq.read_table(made)
    numbers = np.stack(table["embedding"].to_numpy()).astype(float)
    scales = table["embedding_scale"].to_numpy()[:, None].astype(float) if dtype == "int8" else np.ones((540, 1))
    assert (np.abs(numbers * scales - drawn) <= (scales / 2 if dtype == "int8" else np.abs(drawn) / 2048)).all()
    back, stated = vectors(rsr("transform", "--dtype", "float32", made))
    assert stated["dtype"] == "float32"
    assert (back == numbers * scales).all()
    assert rsr("index", made, "-o", path).returncode == 0
    assert np.load(next(path.glob("segments/*/vectors.npy")), mmap_mode="r").dtype == dtype
    found = hits(rsr("query", path, "--space", "m", tmp_path / "theirs.npy", "-k", "1"))
    nearest = (unit(drawn) @ unit(back).T).argmax(axis=1)
    assert [hit for _, hit, _ in found] == [table["id"][row].as_py() for row in nearest.tolist()]


def unit(values):
    return values / np.linalg.norm(values.astype(float), axis=1, keepdims=True)


def test_embeddings_are_centred_in_place(rsr, lines, drawn, files):
    sent = embedding_records(drawn)
    done = rsr("transform", "--with", files["mean"], input=lines(sent))
    found, stated = vectors(done)
    assert np.allclose(found, unit(drawn) - unit(drawn[:270]).mean(axis=0), atol=1e-6)
    assert stated["dim"] == 12
    assert stated["transform"]["of"] == sent[0]["properties"]["embedding"]["fingerprint"]
    for record, line in zip(sent, done.stdout.splitlines(), strict=True):
        del record["properties"]["embedding"]
        left = orjson.loads(line)
        del left["properties"]["embedding"]
        assert left == record


@pytest.mark.parametrize("method", TRANSFORMS)
def test_codes_are_those_of_the_transformed_embeddings(rsr, lines, drawn, files, method):
    sent = lines(embedding_records(drawn))
    found = rsr("binarize", "--with", files[method], "--keep-embedding", input=sent)
    piped = rsr("transform", "--with", files[method], input=sent)
    then = rsr("binarize", "--keep-embedding", input=piped.stdout)
    assert found.returncode == 0
    assert found.stdout == then.stdout
    if FIT_METHODS[method].code == "sign":
        made, _ = vectors(piped)
        assert [bits_of(orjson.loads(line)) for line in found.stdout.splitlines()] == (made > 0).astype(int).tolist()


def hits(done):
    assert done.returncode == 0, done.stderr
    return [
        (each["properties"]["query"], each["id"], each["properties"]["distance"])
        for each in map(orjson.loads, done.stdout.splitlines())
    ]


@pytest.mark.parametrize(
    ("command", "method"), [*product(["transform"], TRANSFORMS), *product(["binarize"], FIT_METHODS)]
)
def test_an_index_transforms_the_queries_that_are_not(rsr, lines, drawn, files, tmp_path, command, method):
    sent, with_file = lines(embedding_records(drawn)), ("--with", files[method])
    made = rsr(command, *with_file, input=sent).stdout
    path = tmp_path / "lake.rsr"
    assert rsr("index", "-o", path, *with_file, input=made).returncode == 0
    by_bits = command == "binarize" and not FIT_METHODS[method].is_code
    ask = ("query", path, "-k", "5", *(["--symmetric"] if by_bits else []))
    found = hits(rsr(*ask, input=sent))
    assert FIT_METHODS[method].is_code or found == hits(rsr(*ask, input=made))
    assert len(found) == 5 * len(drawn)
    if command == "transform":
        values, _ = vectors(rsr("transform", *with_file, input=sent))
        cosines = unit(values) @ unit(values).T
        nearest = {f"t{i}": f"t{row.argsort()[-2]}" for i, row in enumerate(cosines)}
        assert {query: found[5 * i + 1][1] for i, (query, *_) in enumerate(found[::5])} == nearest


def test_an_index_keeps_what_it_was_given_through_all_that_changes_it(rsr, lines, drawn, files, tmp_path):
    sent, path = [embedding_records(drawn)[i : i + 180] for i in (0, 180, 360)], tmp_path / "lake.rsr"
    with_file = ("--with", files["whiten"])
    first, second, third = (rsr("binarize", *with_file, input=lines(some)).stdout for some in sent)
    assert rsr("index", "-o", path, *with_file, input=first).returncode == 0
    assert rsr("index", "-o", path, "--append", input=second).returncode == 0
    assert rsr("index", "-o", tmp_path / "other.rsr", *with_file, input=third).returncode == 0
    assert rsr("index", "-o", tmp_path / "all.rsr", path, tmp_path / "other.rsr").returncode == 0
    assert rsr("index", "-o", tmp_path / "one.rsr", *with_file, input=first + second + third).returncode == 0
    whole, part = (hits(rsr("query", tmp_path / name, input=lines(sent[0]))) for name in ("one.rsr", "all.rsr"))
    assert part == whole
    assert rsr("index", "-o", tmp_path / "all.rsr", "--delete", "--id", "t3").returncode == 0
    assert rsr("index", "-o", tmp_path / "all.rsr", "--compact").returncode == 0
    assert rsr("check", tmp_path / "all.rsr").returncode == 0
    left = hits(rsr("query", tmp_path / "all.rsr", "--radius", "inf", input=lines(sent[1])))
    assert left == [
        hit
        for hit in hits(rsr("query", tmp_path / "one.rsr", "--radius", "inf", input=lines(sent[1])))
        if hit[1] != "t3"
    ]
    shutil.copytree(tmp_path / "all.rsr", tmp_path / "copy.rsr")
    kept = next((tmp_path / "copy.rsr").glob("segments/*/transform.safetensors"))
    assert kept.read_bytes() == files["whiten"].read_bytes()
    kept.write_bytes(kept.read_bytes()[:-1] + b"\x01")
    done = rsr("query", tmp_path / "copy.rsr", input=lines(sent[0]))
    assert done.returncode == 1
    assert b"is damaged: it is not what the vectors were made with" in done.stderr
    assert b"transform.safetensors" in rsr("check", tmp_path / "copy.rsr").stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("fit", "--method", "whiten"), b"whiten needs --dims"),
        (("fit", "--method", "itq"), b"itq needs --bits"),
        (("fit", "--method", "itq", "--dims", "3"), b"itq takes no --dims, but --bits"),
        (("fit", "--method", "itq", "--bits", "3", "--dims", "3"), b"itq takes no --dims, but --bits"),
        (("fit", "--method", "mean", "--dims", "3"), b"mean takes no --dims"),
        (("fit", "--method", "pca", "--dims", "13"), b"have 12 dimensions, fewer than 13; pass as many --dims at most"),
        (("transform",), b"there is nothing to do: pass --with or --dtype"),
        (("transform", "--with", __file__), b"is no safetensors file"),
        (("transform", "--with", "a", "--with", "b"), b"--with is passed 2 times, and only one would count"),
        (("binarize", "--with", "a", "--with", "b"), b"--with is passed 2 times, and only one would count"),
    ],
)
def test_wrong_usage_is_one_line(rsr, lines, drawn, tmp_path, arguments, what):
    output = ("-o", tmp_path / "made.st") if arguments[0] == "fit" else ()
    done = rsr(*arguments, *output, input=lines(embedding_records(drawn)))
    assert done.returncode == (1 if b"safetensors file" in what else 2)
    assert what in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "made.st").exists()


def test_an_index_needs_the_file_of_its_records_and_no_other(rsr, lines, drawn, files, tmp_path):
    sent, path = lines(embedding_records(drawn)), tmp_path / "lake.rsr"
    made = rsr("binarize", "--with", files["pca"], input=sent).stdout
    for stream, with_file, what in (
        (made, (), b"were made with what was learned (pca)"),
        (made, ("--with", files["mean"]), b"were made with what was learned (pca)"),
        (sent, ("--with", files["pca"]), b"the embeddings were not made with it; leave --with out"),
    ):
        done = rsr("index", "-o", path, *with_file, input=stream)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert what in done.stderr
        assert not path.exists()


def test_embeddings_are_transformed_once(rsr, lines, drawn, files, tmp_path):
    made = rsr("transform", "--with", files["mean"], input=lines(embedding_records(drawn))).stdout
    done = rsr("transform", "--with", files["mean"], input=made)
    assert done.returncode == 1
    assert b"was fitted to embeddings of another vector space" in done.stderr
    done = rsr("fit", "--method", "pca", "--dims", "2", "-o", tmp_path / "pca.st", input=made)
    assert done.returncode == 2
    assert b"transformed already, and pca is a transform; pass the embeddings as rsr embed wrote" in done.stderr
    assert rsr("fit", "--method", "rabitq", "-o", tmp_path / "rabitq.st", input=made).returncode == 0


def test_what_was_fitted_is_replaced_only_if_asked_and_only_by_its_like(rsr, lines, drawn, tmp_path):
    sent, path, scene = lines(embedding_records(drawn)), tmp_path / "mean.st", tmp_path / "scene.tif"
    fit = ("fit", "--method", "mean", "-o")
    assert rsr(*fit, path, input=sent).returncode == 0
    before = path.read_bytes()
    assert b"pass --overwrite" in rsr(*fit, path, input=sent).stderr
    assert rsr(*fit, path, "--overwrite", "--sample", "3", input=sent).returncode == 0
    assert path.read_bytes() != before
    scene.write_bytes(b"II*\0")
    assert b"is not a safetensors file" in rsr(*fit, scene, "--overwrite", input=sent).stderr


def test_nothing_is_learned_of_nothing(rsr, tmp_path):
    done = rsr("fit", "--method", "mean", "-o", tmp_path / "mean.st", input=b"")
    assert done.returncode == 1
    assert b"no embeddings to learn from" in done.stderr
    assert not list(tmp_path.iterdir())


def test_parts_are_made_with_one_file(rsr, lines, drawn, files, tmp_path):
    sent = lines(embedding_records(drawn))
    for command in ("transform", "binarize"):
        parts = ("--parts", tmp_path / command)
        assert rsr(command, "--with", files["whiten"], *parts, "--part-size", "250", input=sent).returncode == 0
        done = rsr(command, "--with", files["pca"], *parts, input=sent)
        assert done.returncode == 2
        assert b"holds parts made with transform" in done.stderr
        whole = rsr(command, "--with", files["whiten"], input=sent).stdout
        rsr("index", "-o", tmp_path / "parts.rsr", "--overwrite", "--with", files["whiten"], tmp_path / command)
        rsr("index", "-o", tmp_path / "whole.rsr", "--overwrite", "--with", files["whiten"], input=whole)
        found, wanted = (hits(rsr("query", tmp_path / f"{name}.rsr", input=sent)) for name in ("parts", "whole"))
        assert found == wanted
        assert len(found) == 540 * 20


def test_no_transform_is_none_and_what_is_no_transform_makes_no_default(rsr, lines, drawn, files, tmp_path):
    records = embedding_records(drawn)
    for record in records:
        record["properties"]["embedding"]["transform"] = None
    for arguments in (("fit", "--method", "mean", "-o", tmp_path / "x.st"), ("transform", "--with", files["mean"])):
        assert rsr(*arguments, input=lines(records)).returncode == 0
    for record in records:
        record["properties"]["embedding"]["transform"] = {"method": "pq", "fit": "f", "of": "o"}
    done = rsr("binarize", input=lines(records))
    assert done.returncode == 0
    assert orjson.loads(done.stdout.splitlines()[0])["properties"]["code"]["method"] == "rotated"


@needs_torch
def test_a_chip_is_embedded_as_the_model_of_a_transformed_index_does(rsr, tmp_path, write_raster):
    pixels = np.random.default_rng(0).integers(100, 4000, (6, 96, 96)).astype(np.uint16)
    scene = write_raster(tmp_path / "scene.tif", pixels)
    bands = "blue,green,red,nir08,swir16,swir22"
    tiles = rsr("tile", "--size", "32", "--bands", bands, "--scale", "1", "--offset", "0", scene).stdout
    made, mean = rsr("embed", "--model", "rcf", input=tiles).stdout, tmp_path / "mean.st"
    assert rsr("fit", "--method", "mean", "-o", mean, input=made).returncode == 0
    for command, known in (
        ("transform", "a.rsr"),
        ("transform", "a.geojsonl"),
        ("binarize", "b.rsr"),
        ("binarize", "b.geojsonl"),
    ):
        stream = rsr(command, "--with", mean, input=made).stdout
        if known.endswith(".rsr"):
            assert rsr("index", "-o", tmp_path / known, "--with", mean, input=stream).returncode == 0
        else:
            (tmp_path / known).write_bytes(stream)
        assert rsr("embed", "--as", tmp_path / known, input=tiles).stdout == made


@pytest.mark.parametrize("method", [name for name, method in FIT_METHODS.items() if method.is_code])
def test_what_compares_bits_takes_no_codes_that_are_none(rsr, lines, drawn, files, tmp_path, method):
    sent = lines(embedding_records(drawn[:5]))
    made = rsr("binarize", "--with", files[method], input=sent).stdout
    done = rsr("plot", "-o", tmp_path / "points.png", input=made)
    assert done.returncode == 2
    assert f"codes of {method} are not compared by Hamming distance; plot the embeddings".encode() in done.stderr
    done = rsr("transform", "--with", files[method], input=sent)
    assert done.returncode == 1
    assert f"was learned for codes of {method}".encode() in done.stderr


@pytest.mark.parametrize("kind", ["missing", "directory", "device", "pipe"])
def test_a_file_that_cannot_be_read_is_one_line(rsr, lines, drawn, tmp_path, kind):
    path = tmp_path / "mean.st"
    if kind == "directory":
        path.mkdir()
    elif kind == "device":
        path = "/dev/null"
    elif kind == "pipe":
        os.mkfifo(path)
    for command in (("transform",), ("binarize",), ("index", "-o", tmp_path / "lake.rsr")):
        done = rsr(*command, "--with", path, input=lines(embedding_records(drawn[:5])))
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert b"cannot be read" in done.stderr
        assert not (tmp_path / "lake.rsr").exists()


@pytest.mark.parametrize(("method", "dtype"), [("mean", "bit"), ("pq", "uint8"), ("rabitq", "uint8")])
def test_items_state_how_vectors_were_quantized(rsr, lines, drawn, files, tmp_path, method, dtype):
    records = embedding_records(drawn[:3])
    for record in records:
        record["properties"]["datetime"] = "2024-05-01T00:00:00Z"
    path = tmp_path / "codes.stac.json"
    assert rsr("binarize", "--with", files[method], "-o", path, input=lines(records)).returncode == 0
    for item in orjson.loads(path.read_bytes())["features"]:
        assert item["properties"]["emb:quantization"]["quantized_dtype"] == dtype


@pytest.mark.parametrize("method", ["itq", "pq", "rabitq"])
def test_every_seed_is_one(rsr, lines, drawn, tmp_path, method):
    sent, size = lines(embedding_records(drawn)), {"itq": "4", "pq": "32"}.get(method)
    found = set()
    for seed in ("0", "2147483648", "4294967295"):
        path = tmp_path / f"{seed}.st"
        bits = ("--bits", size) if size else ()
        assert rsr("fit", "--method", method, *bits, "--seed", seed, "-o", path, input=sent).returncode == 0
        found.add(rsr("binarize", "--with", path, input=sent).stdout)
    assert len(found) == 3


def test_a_sample_takes_no_memory_for_what_does_not_come(rsr, lines, drawn, tmp_path):
    fit = ("fit", "--method", "mean", "--sample", str(1 << 31), "-o", tmp_path / "mean.st")
    done = rsr(*fit, input=lines(embedding_records(drawn)))
    assert (done.returncode, done.stderr) == (0, b"")
    assert rsr("fit", "--method", "mean", "--sample", str(1 << 32), "-o", "x", input=b"").returncode == 2


def test_what_the_environment_states_is_no_hindrance(rsr, lines, drawn, files, tmp_path):
    sent, path = lines(embedding_records(drawn[:9])), tmp_path / "lake.rsr"
    env = {**os.environ, "RSR_INDEX_WITH": str(files["mean"]), "RSR_BINARIZE_WITH": str(files["mean"])}
    made = rsr("binarize", input=sent, env=env).stdout
    assert rsr("index", "-o", path, input=made, env=env).returncode == 0
    assert rsr("index", "-o", path, "--delete", "--id", "t3", env=env).returncode == 0
    assert rsr("index", "-o", path, "--compact", env=env).returncode == 0
    done = rsr("index", "-o", path, "--compact", "--with", files["mean"])
    assert b"--with is for records that are added" in done.stderr


@pytest.mark.parametrize("method", TRANSFORMS)
def test_codes_of_centred_embeddings_are_asked_by_weights(rsr, lines, drawn, files, tmp_path, method):
    sent, path, with_file = lines(embedding_records(drawn)), tmp_path / "lake.rsr", ("--with", files[method])
    made = rsr("binarize", *with_file, "--method", "sign", input=sent).stdout
    assert rsr("index", "-o", path, *with_file, input=made).returncode == 0
    by_weights, by_bits = (rsr("query", path, "-k", "9", *some, input=sent).stdout for some in ([], ["--symmetric"]))
    assert by_weights != by_bits


def test_info_names_a_transform_by_its_method_and_digest(rsr, lines, drawn, files, tmp_path):
    made = rsr("transform", "--with", files["mean"], input=lines(embedding_records(drawn[:3]))).stdout
    digest = hashlib.sha256(files["mean"].read_bytes()).hexdigest()[:16]
    assert f"transform mean {digest}, fingerprint".encode() in rsr("info", "-", input=made).stdout
    assert rsr("index", "-o", tmp_path / "lake.rsr", "--with", files["mean"], input=made).returncode == 0
    assert f"transform mean {digest}, fingerprint".encode() in rsr("info", tmp_path / "lake.rsr").stdout
