"""``rsr plot``: points in a file."""

import json

import numpy as np
import pytest
from support import embedding


def test_the_same_seed_plots_the_same_bytes(rsr, tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "in").write_bytes(
        b"".join(
            json.dumps({"type": "Feature", "id": n, "geometry": None, "properties": properties}).encode() + b"\n"
            for n in range(40)
            for properties in [{"embedding": embedding(random.standard_normal(8).astype(np.float32), "m", "f")}]
        )
    )
    drawn = []
    for name in ("a.png", "b.png"):
        done = rsr("plot", "in", "-o", name, "--seed", "1", "--sample", "30", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["x.geojsonl", "-o", "x.html"], 2, "'x.html' must end in .png or .pdf, which chooses the format"),
        (["x.geojsonl", "-o", "-"], 2, "'-' must end in .png or .pdf"),
        (["x.geojsonl"], 2, "missing option '-o'"),
        (["--sample", "2", "-o", "x.png"], 2, "'--sample'"),
        (["empty.geojsonl", "-o", "x.png"], 1, "t-SNE needs 3 records or more, and 0 came in"),
        (["bare.geojsonl", "-o", "x.png"], 1, "bare.geojsonl:1: has no embedding, and is not a tile"),
        (["empty.geojsonl", "-o", "there.png"], 1, "there.png: exists already; pass --overwrite"),
    ],
)
def test_errors_are_one_line_and_leave_no_file(rsr, tmp_path, arguments, status, message):
    (tmp_path / "empty.geojsonl").touch()
    (tmp_path / "there.png").touch()
    (tmp_path / "bare.geojsonl").write_text('{"type":"Feature","id":"a","geometry":null,"properties":{}}\n')
    before = sorted(tmp_path.iterdir())
    done = rsr("plot", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
