"""The registry of datasets: complete, and offered by the command."""

from importlib import import_module
from pathlib import Path

import pytest

from rsr_cli.commands.tile import tile
from rsr_cli.core import sources
from rsr_cli.core.sources import DATASETS, Dataset


def test_every_dataset_is_in_the_registry():
    for path in Path(sources.__file__).parent.glob("[!_]*.py"):
        import_module(f"{sources.__name__}.{path.stem}")
    assert {dataset.name: dataset for dataset in Dataset.__subclasses__()} == DATASETS


@pytest.mark.parametrize("name", DATASETS)
def test_the_command_offers_every_dataset(name):
    options = {option.name: option for option in tile.params}
    dataset = DATASETS[name]
    assert name in options["dataset"].type.choices
    assert f"{name} ({dataset.title})" in options["dataset"].help
    counts = " or ".join(map(str, dataset.class_counts))
    assert not counts or f"{name} {counts}" in options["classes"].help
    assert not dataset.draws_splits or name in options["seed"].help
