"""Backbones of terratorch's registry, against timm's and torchgeo's own models of the same checkpoints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rsr_cli.core.encoders.registry import find_model, load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings, parse
from rsr_cli.core.encoders.statistics import BY_BAND
from rsr_cli.core.errors import UsageError, WeightsError

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(model, weights, **others):
    return EncoderSettings(model, weights=str(weights), **others)


def generic(name, path, bands=("red", "green", "blue"), **others):
    n = len(bands)
    stated = {"mean": (1000.0,) * n, "std": (2000.0,) * n, "size_px": 224} | others
    return load_encoder(settings(name, path, bands=bands, **stated))


@pytest.fixture(scope="session")
def published(random_weights):
    """Return a function that writes what a library publishes for a module: its weights, by its own names."""

    def write(module, path, leave_out=()):
        shapes = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
        state = module.state_dict() | random_weights({name: tensor.shape for name, tensor in shapes.items()})
        state |= {name: tensor.abs() + 0.5 for name, tensor in state.items() if name.endswith("running_var")}
        module.load_state_dict(state)
        torch.save({name: tensor for name, tensor in state.items() if not name.startswith(tuple(leave_out))}, path)
        return module.eval()

    return write


def test_a_timm_network_returns_its_pooled_feature_map(chips, encode, backbones, published, tmp_path):
    import timm

    path = tmp_path / "resnet18.pth"
    network = published(timm.create_model("resnet18", pretrained=False, in_chans=4), path)
    encoder = generic("resnet18", path, bands=("blue", "green", "red", "nir"), size_px=96)
    assert (encoder.name, encoder.dim, encoder.size_px) == ("timm_resnet18", 512, 96)
    assert (encoder.bands, encoder.mean[0]) == (("blue", "green", "red", "nir"), 1000)
    pixels = chips(2, bands=4, size=96)
    with torch.inference_mode():
        torch.testing.assert_close(encode(encoder, pixels), network.forward_features(pixels).mean((2, 3)))
    early = generic("timm_resnet18", path, bands=("blue", "green", "red", "nir"), size_px=96, layer=1)
    assert early.dim == 64


def test_feature_maps_with_channels_last_and_joined_names(chips, encode, backbones, published, tmp_path):
    import timm

    path = tmp_path / "swin.pth"
    network = published(timm.create_model("swin_tiny_patch4_window7_224", pretrained=False), path)
    pixels = chips(2, bands=3)
    vectors = encode(generic("swin_tiny_patch4_window7_224", path, layer=0, pool="max"), pixels)
    with torch.inference_mode():
        expected = network.layers[0](network.patch_embed(pixels)).amax((1, 2))
    torch.testing.assert_close(vectors, expected)


def test_torchgeos_resnet_has_no_head_in_its_checkpoint(chips, encode, backbones, published, tmp_path):
    import torchgeo.models

    path = tmp_path / "moco.pth"
    network = published(torchgeo.models.resnet18(in_chans=3), path, leave_out=("fc.",))
    pixels = chips(2, bands=3)
    vectors = encode(generic("ssl4eos12_resnet18_sentinel2_rgb_moco", path), pixels)
    with torch.inference_mode():
        torch.testing.assert_close(vectors, network.forward_features(pixels).mean((2, 3)))


def test_dofa_has_wavelengths_and_a_class_token(chips, encode, backbones, published, tmp_path):
    import torchgeo.models

    path = tmp_path / "dofa.pth"
    network = published(torchgeo.models.dofa_small_patch16_224(), path)
    pixels = chips(2, bands=2)
    tokens = []
    network.blocks[-1].register_forward_hook(lambda *arguments: tokens.append(arguments[-1]))
    with torch.inference_mode():
        network.forward_features(pixels, [0.665, 1.61])
    encoder = generic("dofa_small_patch16_224", path, ("red", "swir16"))
    torch.testing.assert_close(encode(encoder, pixels), tokens[0][:, 1:].mean(1))
    with pytest.raises(UsageError, match="fp32"):
        encode(encoder, pixels.bfloat16())
    encoder = generic("dofa_small_patch16_224", path, ("red", "swir16"), pool="cls")
    torch.testing.assert_close(encode(encoder, pixels), tokens[0][:, 0])
    with pytest.raises(UsageError, match="DOFA has no wavelength for pan"):
        generic("dofa_small_patch16_224", path, ("red", "pan"))


def test_terramind_reads_only_its_sentinel_2_weights(chips, encode, backbones, published, tmp_path):
    path = tmp_path / "terramind.pt"
    network = published(
        backbones.build("terramind_v1_tiny", pretrained=False, modalities=["S2L2A", "S1GRD", "DEM"]), path
    )
    pixels = chips(2, bands=12)
    vectors = encode(generic("terramind_v1_tiny", path, [f"b{i}" for i in range(12)]), pixels)
    with torch.inference_mode():
        torch.testing.assert_close(vectors, network({"S2L2A": pixels})[-1].mean(1))


def test_what_a_backbone_cannot_do_is_an_error(backbones, published, tmp_path):
    import timm

    path = tmp_path / "resnet34.pth"
    published(timm.create_model("resnet34", pretrained=False), path)
    for call, error, message in (
        (
            lambda: load_encoder(EncoderSettings("timm_resnet18")),
            UsageError,
            "timm_resnet18 has no default for bands, mean, std, size",
        ),
        (lambda: generic("timm_resnet18", path), WeightsError, r"18 .*left over: layer1\.2\.conv1\.weight"),
        (lambda: generic("timm_resnet34", path, ("red", "nir")), WeightsError, r"\(64, 3, 7, 7\) for \(64, 2, 7, 7\)"),
        (lambda: generic("timm_resnet34", path, pool="cls"), UsageError, "no class token"),
        (lambda: generic("timm_resnet34", path, layer=5), UsageError, "has 5 layers"),
        (
            lambda: generic("timm_vit_tiny_patch16_224", path, size_px=100),
            UsageError,
            "cannot encode 3 bands of 100 px",
        ),
        (lambda: generic("dinov3_vits16", path), UsageError, "unknown model dinov3_vits16"),
        (
            lambda: load_encoder(
                EncoderSettings("timm_resnet34", bands=["red"], mean=[0.0], std=[1.0], size_px=96),
            ),
            WeightsError,
            "timm_resnet34 has no published weights",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_the_specification_states_what_has_no_default(backbones, published, tmp_path):
    import timm

    path = tmp_path / "resnet18.pth"
    published(timm.create_model("resnet18", pretrained=False), path)
    stated = "bands=red,green,blue:mean=1000,1000,1000:std=2000,2000,2000"
    for layer, key in ((None, ""), (4, ""), (-1, ""), (-4, "layer=1:"), (1, "layer=1:")):
        encoder = generic("resnet18", path, size_px=96, layer=layer)
        assert encoder.specification == f"timm_resnet18:{key}size=96:{stated}"
        again = load_encoder(replace(parse(encoder.specification), weights=str(path)))
        assert again.space().fingerprint == encoder.space().fingerprint
    # statistics that other models would have by default are stated too
    blue = {"bands": ("blue",), "mean": BY_BAND["blue"][:1], "std": BY_BAND["blue"][1:]}
    assert find_model("resnet18").adjust(EncoderSettings("resnet18", size_px=96, **blue)).changes == EncoderSettings(
        "timm_resnet18", size_px=96, **blue
    )


def test_importing_terratorch_leaves_the_precision_of_torch_as_it_was():
    code = (
        "import torch\n"
        "from rsr_cli.core.encoders.terratorch import list_backbones\n"
        "list_backbones()\n"
        "print(torch.get_float32_matmul_precision())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["highest"]
