"""``rsr models``, and what it takes to add a model."""

from __future__ import annotations

import orjson
import pytest
from click import Context
from click.shell_completion import BashComplete
from support import needs_torch

from rsr_cli.core.encoders import registry
from rsr_cli.core.encoders.base import Model
from rsr_cli.core.encoders.statistics import Statistics
from rsr_cli.core.errors import OutputError
from rsr_cli.main import cli

#: What a contributor writes: one file ...
FILE = '''
import torch

from rsr_cli.core.encoders.base import Encoder


class Brightest(Encoder):
    """The maximum of each band."""

    def __init__(self, model, checkpoint):
        super().__init__(model)
        self.module = torch.nn.Identity()
        self.facts = {"recipe": 1}

    def forward(self, pixels, valid, **context):
        return pixels.amax((2, 3))
'''
#: ... and one entry.
ENTRY = Model(
    name="brightest",
    encoder="brightest_of_a_contributor:Brightest",
    dim=2,
    bands=("red", "nir08"),
    statistics=Statistics((0.0, 0.0), (1.0, 1.0)),
    needs_weights=False,
)


def rows(table):
    header, *lines = table.decode().splitlines()
    assert header.split() == ["model", "dimensions", "size", "bands", "weights"]
    return {line.split()[0]: line.split()[1:] for line in lines}


def test_the_table_states_every_model(call):
    table = rows(call("models"))
    assert list(table) == list(registry.MODELS)
    assert next(iter(table)) == registry.DEFAULT
    hub = "https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-1.0-100M/resolve/main/Prithvi_EO_V1_100M.pt"
    assert table["prithvi_eo_v1_100"] == ["768", "224", "blue,green,red,nir08,swir16,swir22", hub]
    assert table["prithvi_eo_tiny"][3:] == ["--weights"]
    assert table["rcf"] == ["768", "any", "any", "none"]


def test_all_adds_terratorchs_backbones(call, backbones):
    table = rows(call("models", "--all"))
    assert list(table)[: len(registry.MODELS)] == list(registry.MODELS)
    assert table["timm_resnet50"] == ["-", "--size", "--bands", "--mean", "--std", "--weights"]
    assert "terratorch_dofa_base_patch16_224" in table


def test_the_table_is_written_to_a_file(call, tmp_path):
    path = tmp_path / "models.txt"
    assert call("models", "-o", path) == b""
    assert path.read_bytes() == call("models")
    path.write_text("old")
    with pytest.raises(OutputError):
        call("models", "-o", path)
    assert path.read_text() == "old"
    call("models", "-o", path, "--overwrite")
    assert path.read_bytes() == call("models")


def test_old_options_are_hidden():
    shown = cli.get_command(None, "embed").get_help(Context(cli, info_name="rsr"))
    assert "--list-models" not in shown
    assert "rsr models" in shown
    completed = BashComplete(cli, {}, "rsr", "_RSR_COMPLETE").get_completions(["embed"], "--")
    assert "--fill-missing" in [item.value for item in completed]
    assert "--list-models" not in [item.value for item in completed]


@pytest.fixture
def contributed(tmp_path, monkeypatch):
    """Add an encoder as a contributor does."""
    (tmp_path / "brightest_of_a_contributor.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.MODELS, ENTRY.name, ENTRY)


@needs_torch
@pytest.mark.usefixtures("contributed")
def test_a_new_encoder_needs_one_file_and_one_entry(call, corner_scene, tmp_path):
    assert rows(call("models"))["brightest"] == ["2", "any", "red,nir08", "none"]
    completed = BashComplete(cli, {}, "rsr", "_RSR_COMPLETE").get_completions(["embed", "--model"], "bri")
    assert [item.value for item in completed] == ["brightest"]
    tiles = tmp_path / "tiles.geojsonl"
    call("tile", "--size", 32, corner_scene, "-o", tiles)
    records = [orjson.loads(line) for line in call("embed", "--model", "brightest:size=16", tiles).splitlines()]
    assert len(records) == 9
    assert {record["properties"]["embedding"]["model"] for record in records} == {"brightest:size=16"}
    assert {record["properties"]["embedding"]["dim"] for record in records} == {2}
