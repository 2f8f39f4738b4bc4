"""Prithvi, against terratorch's own models of the same checkpoints.

The checkpoints have random weights in the layouts that are published, see the config.json and file lists of the
Prithvi repositories at https://huggingface.co/ibm-nasa-geospatial.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from rsr_cli.core.encoders.placement import move
from rsr_cli.core.encoders.registry import MODELS, load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def terratorchs(backbones, name, path, **options):
    """Build terratorch's own backbone, which loads the same file in its own way."""
    return backbones.build(name, pretrained=True, ckpt_path=str(path), **options).eval()


def settings(model, weights, **others):
    return EncoderSettings(model, weights=str(weights), **others)


def test_the_default_model_matches_terratorch(chips, encode, worst_cosine, v1, backbones):
    encoder = load_encoder(settings("prithvi_eo_v1_100", v1))
    assert (encoder.name, encoder.size_px, encoder.dim, encoder.needs) == ("prithvi_eo_v1_100", 224, 768, ())
    assert encoder.bands == ("blue", "green", "red", "nir08", "swir16", "swir22")
    assert encoder.mean[:2] == (775.2290211032589, 1080.992780391705)
    assert encoder.std[-1] == 1154.505683480695
    assert not encoder.module.training
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())
    digest = hashlib.sha256(v1.read_bytes()).hexdigest()
    assert encoder.facts == {"weights": digest, "pool": "mean", "pooled": "valid pixels", "layer": 11}

    pixels = chips(3)
    vectors = encode(encoder, pixels)
    assert vectors.shape == (3, 768)
    assert vectors.dtype == torch.float32
    with torch.inference_mode():
        expected = terratorchs(backbones, "prithvi_eo_v1_100", v1)(pixels)[-1][:, 1:].mean(1)
    torch.testing.assert_close(vectors, expected)
    assert worst_cosine(vectors[1:2], encode(encoder, pixels[1:2])) > 0.99999
    # a broken model would return one vector for all tiles
    assert torch.pdist(vectors).min() > 1e-3 * vectors.norm(dim=1).min()


@pytest.mark.parametrize("layer", [None, -1, 3, 0, -3])
@pytest.mark.parametrize("pool", ["mean", "cls", "max", "gem"])
def test_pools_and_layers_match_terratorchs_tokens(chips, encode, pool, layer, tiny, backbones):
    pixels = chips(3)
    vectors = encode(load_encoder(settings("prithvi_eo_tiny", tiny, pool=pool, layer=layer)), pixels).numpy()
    with torch.inference_mode():
        tokens = terratorchs(backbones, "prithvi_eo_tiny", tiny)(pixels)[-1 if layer is None else layer].numpy()
    patches = tokens[:, 1:].astype(np.float64)
    expected = {
        "mean": patches.mean(1),
        "cls": tokens[:, 0],
        "max": patches.max(1),
        "gem": np.cbrt((patches**3).mean(1)),
    }[pool]
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_hole_is_not_seen(chips, encode, pool, tiny, backbones):
    """Attention is asked to leave out the hole, in terratorch's own blocks."""
    pixels, valid = chips(3).double(), torch.ones(3, 224, 224)
    valid[1, 32:96] = 0  # four rows of patches
    valid[2, :, :40] = 0  # two columns, and half of the third
    shares = valid.reshape(3, 14, 16, 14, 16).mean((2, 4)).flatten(1)
    seen = torch.cat([torch.ones(3, 1, dtype=torch.bool), shares > 0], dim=1)
    model = terratorchs(backbones, "prithvi_eo_tiny", tiny).double()

    def masked(attention, inputs):
        (tokens,) = inputs
        n, count, dim = tokens.shape
        query, key, value = attention.qkv(tokens).reshape(n, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        logits = (query @ key.transpose(-2, -1)) * attention.scale
        weights = logits.masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
        return attention.proj((weights @ value).transpose(1, 2).reshape(n, count, dim))

    for block in model.blocks:
        block.attn.forward = lambda *inputs, attention=block.attn, **_: masked(attention, inputs[:1])
    with torch.inference_mode():
        tokens = model(pixels)[-1]
    weighed = (tokens[:, 1:] * shares[..., None]).sum(1) / shares.sum(1, keepdim=True)
    encoder = load_encoder(settings("prithvi_eo_tiny", tiny, pool=pool))
    encoder.module.double()
    vectors = encode(encoder, pixels, valid)
    torch.testing.assert_close(vectors, (weighed if pool == "mean" else tokens[:, 0]).float())
    other = torch.where(valid[1:2, None] > 0, pixels[1:2], torch.randn(1, 6, 224, 224).double())
    torch.testing.assert_close(encode(encoder, other, valid[1:2]), vectors[1:2])  # whatever stands in the hole


def test_another_size_has_the_position_embedding_of_its_own_grid(chips, encode, tiny, backbones):
    pixels = chips(2, size=96)
    vectors = encode(load_encoder(settings("prithvi_eo_tiny", tiny, size_px=96)), pixels)
    with torch.inference_mode():
        expected = terratorchs(backbones, "prithvi_eo_tiny", tiny, img_size=96)(pixels)[-1][:, 1:].mean(1)
    torch.testing.assert_close(vectors, expected)


def test_date_and_place_reach_the_model(chips, encode, worst_cosine, tl, backbones):
    encoder = load_encoder(settings("prithvi_eo_v2_tiny_tl", tl))
    assert encoder.needs == ("datetime", "location")
    pixels = chips(2)
    when, where = torch.tensor([[2017.0, 163.0], [2020.0, 0.0]]), torch.tensor([[47.3, 8.5], [-23.5, -46.6]])
    vectors = encode(encoder, pixels, datetime=when, location=where)
    with torch.inference_mode():
        backbone = terratorchs(backbones, "prithvi_eo_v2_tiny_tl", tl)
        expected = backbone(pixels, temporal_coords=when[:, None], location_coords=where)[-1][:, 1:].mean(1)
    torch.testing.assert_close(vectors, expected)
    assert not torch.allclose(vectors, encode(encoder, pixels, datetime=when, location=where.flip(1)))

    move(encoder.module, torch.device("cpu"), torch.bfloat16)
    rounded = encode(encoder, pixels.bfloat16(), datetime=when, location=where)
    assert rounded.dtype == torch.float32
    assert worst_cosine(rounded, vectors) > 0.99
    # 2017 and 2016 are the same number in bfloat16
    with torch.inference_mode():
        years = encoder.module.temporal_embed_enc(torch.tensor([[2017.0, 5.0], [2016.0, 5.0]]))
    assert years.dtype == torch.bfloat16
    assert not torch.equal(years[0], years[1])


def test_the_registry_states_terratorchs_models(backbones):
    from terratorch.models.backbones import prithvi_vit

    models = {name: model for name, model in MODELS.items() if name.startswith("prithvi_eo")}
    assert set(models) == {name for name in backbones["terratorch"] if name.startswith("prithvi_eo")}
    for name, model in models.items():
        with torch.device("meta"):
            module = backbones.build(name, pretrained=False)
        published = prithvi_vit.pretrained_weights.get(name)
        config = prithvi_vit.prithvi_cfgs[name]
        assert (module.embed_dim, len(module.blocks)) == (model.dim, model.layers)
        assert module.blocks[0].attn.num_heads == model.options["heads"]
        assert module.patch_embed.patch_size == [1, model.options["patch_px"], model.options["patch_px"]]
        assert bool(config["coords_encoding"]) is model.encoder.endswith(":PrithviTL")
        assert [round(value) for value in model.statistics.mean] == config["mean"]
        assert [round(value) for value in model.statistics.std] == config["std"]
        if published:
            assert dataclasses.astuple(model.weights) == tuple(published.values())
        else:
            assert model.weights is None
