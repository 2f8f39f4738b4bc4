"""Checkpoints: every published layout is read, other files are refused, and caches come before the network."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from rsr_cli.core.encoders.registry import load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.errors import RsrError, UsageError, WeightsError
from rsr_cli.remedies import explain

pytestmark = pytest.mark.usefixtures("one_thread")


ROOT = Path(__file__).parents[2]


def settings(model, weights, **others):
    return EncoderSettings(model, weights=str(weights), **others)


@pytest.mark.parametrize("layout", ["flat", "state_dict", "lightning", "parallel", "half", "legacy", "safetensors"])
def test_every_published_layout_loads_the_same_model(
    masked_autoencoder, prefixed, chips, encode, worst_cosine, layout, tiny, tmp_path
):
    state = masked_autoencoder(256, 4, frames=1)
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pth")
    if layout == "flat":
        torch.save(state, path)
    elif layout == "state_dict":
        torch.save({"state_dict": prefixed(state), "epoch": 3}, path)
    elif layout == "lightning":
        fine_tuned = {f"model.{name}": tensor for name, tensor in prefixed(state).items()}
        torch.save({"state_dict": fine_tuned | {"model.head.weight": torch.zeros(2)}, "loops": {}}, path)
    elif layout == "parallel":
        torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    elif layout == "half":
        torch.save({name: tensor.bfloat16().float().bfloat16() for name, tensor in state.items()}, path)
    elif layout == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        save_file(prefixed(state), path)
    pixels = chips(2)
    vectors = encode(load_encoder(settings("prithvi_eo_tiny", path)), pixels)
    expected = encode(load_encoder(settings("prithvi_eo_tiny", tiny)), pixels)
    if layout == "half":
        assert vectors.dtype == torch.float32
        assert worst_cosine(vectors, expected) > 0.999
    else:
        assert torch.equal(vectors, expected)


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def bad_files(tiny, touched):
    whole = tiny.read_bytes()
    legacy, trap, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.zeros(1000)}, legacy, _use_new_zipfile_serialization=False)
    torch.save(Trap(touched), trap)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "weights are elsewhere")
    safetensors_bytes = save({"x": torch.zeros(100)})
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:d45406d5fc\nsize 454660610\n"
    return {
        "page.pt": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "is a web page"),
        "pointer.pt": (lfs, "is a git-lfs pointer.*git lfs pull"),
        "empty.pt": (b"", "is empty"),
        "short.pt": (whole[: len(whole) // 2], "is cut short"),
        "short_legacy.pth": (legacy.getvalue()[:-2000], "is not a checkpoint"),
        "noise.bin": (bytes(range(256)) * 40, "is not a checkpoint"),
        "short.safetensors": (safetensors_bytes[:-100], "is cut short"),
        "zip.pt": (archive.getvalue(), "is not a checkpoint"),
        "not.safetensors": (whole, "is not a checkpoint"),
        "trap.ckpt": (trap.getvalue(), "contains code .*only data is loaded"),
        "trap_plain.pt": (pickle.dumps(Trap(touched)), "contains code|is not a checkpoint"),
    }


def test_the_message_says_why_a_file_is_not_a_checkpoint(tiny, tmp_path):
    touched = tmp_path / "touched"
    for name, (content, message) in bad_files(tiny, touched).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message) as caught:
            load_encoder(settings("prithvi_eo_tiny", path))
        assert str(caught.value).startswith(f"{path}: ")
        assert len(str(caught.value)) < 400 + len(str(path))
    assert not touched.exists()


def test_a_file_must_exist_and_end_as_checkpoints_do(tiny, tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pt: no such file"):
        load_encoder(settings("prithvi_eo_tiny", "nowhere.pt"))
    with pytest.raises(WeightsError, match="no such file"):
        load_encoder(settings("prithvi_eo_tiny", tmp_path))
    path = tmp_path / "weights.zip"
    path.write_bytes(tiny.read_bytes())
    with pytest.raises(UsageError, match=r"\.pt \.pth \.bin \.ckpt or \.safetensors"):
        load_encoder(settings("prithvi_eo_tiny", path))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda _: {}, "contains no weights"),
        (lambda _: {"epoch": 3, "state_dict": {"lr": 0.1}}, "contains no weights"),
        (lambda make: make(256, 3, frames=1), r"12 missing: blocks\.3\.norm1\.weight, .*, \.\.\.\)"),
        (lambda make: make(256, 5, frames=1), r"12 left over: blocks\.4\.norm1\.weight"),
        (lambda make: make(192, 4, frames=1), r"with another shape: cls_token \(1, 1, 192\) for \(1, 1, 256\)"),
        (lambda make: make(256, 4, frames=1, tl=True), r"2 left over: temporal_embed_enc\.scale, loc"),
        (lambda _: {"encoder.cls_token": torch.zeros(1, 1, 256)}, "52 missing"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(masked_autoencoder, state, message, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(state(masked_autoencoder), path)
    with pytest.raises(WeightsError, match=message):
        load_encoder(settings("prithvi_eo_tiny", path))


def test_a_model_with_date_and_place_requires_their_weights(masked_autoencoder, prefixed, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(prefixed(masked_autoencoder(192, 12, frames=4)), path)
    with pytest.raises(WeightsError, match=r"2 missing: .*they are at https://huggingface.co/ibm-nasa-geospatial/"):
        load_encoder(settings("prithvi_eo_v2_tiny_tl", path))


def test_a_model_without_published_weights_asks_for_a_file():
    with pytest.raises(WeightsError, match="prithvi_eo_tiny has no published weights") as caught:
        load_encoder(EncoderSettings("prithvi_eo_tiny"))
    assert explain(caught.value).endswith("; pass --weights FILE")


LOAD = """
import sys
from rsr_cli.core.encoders.registry import load_encoder
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.errors import RsrError
from rsr_cli.remedies import explain
for model in sys.argv[1:]:
    try:
        encoder = load_encoder(EncoderSettings(model))
        print(encoder.name, encoder.facts["weights"])
    except RsrError as error:
        print(type(error).__name__, explain(error))
print("terratorch" in sys.modules)
"""


def run(*models, code=LOAD, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "TORCH"))}
    return subprocess.run(
        [sys.executable, "-c", code, *models],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def into_hub_cache(home, repo, file):
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123456789abcdef"
    for path in (folder / "refs", folder / "blobs", snapshot):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(snapshot.name)
    blob = folder / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
    blob.write_bytes(file.read_bytes())
    (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return blob.name


def test_the_cache_is_enough_without_a_network(tl, tmp_path):
    home = tmp_path / "hf"
    digest = into_hub_cache(home, "ibm-nasa-geospatial/Prithvi-EO-2.0-tiny-TL", tl)
    done = run("prithvi_eo_v2_tiny_tl", "prithvi_eo_v1_100", HF_HOME=str(home), HF_HUB_OFFLINE="1")
    found, missing, terratorch = done.stdout.splitlines()
    assert found == f"prithvi_eo_v2_tiny_tl {digest}"
    assert missing == (
        "WeightsError the weights of prithvi_eo_v1_100 "
        "(https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-1.0-100M/resolve/main/Prithvi_EO_V1_100M.pt) "
        f"are not in {home}/hub and HF_HUB_OFFLINE is set; download the file elsewhere and pass --weights FILE"
    )
    assert terratorch == "False"
    assert done.stderr == ""


@pytest.fixture
def server(tl):
    """Serve one file as the hub does, and one as download.pytorch.org does."""
    vit = f"vit-{hashlib.sha256(tl.read_bytes()).hexdigest()[:8]}.pth"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            known = self.path in (
                "/",
                f"/ibm-nasa-geospatial/Prithvi-EO-2.0-tiny-TL/resolve/main/{tl.name}",
                f"/{vit}",
            )
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(tl.stat().st_size if known else 0))
            self.send_header("ETag", '"0123456789"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            return known

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(tl.read_bytes())

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", vit
        httpd.shutdown()


def test_what_the_caches_lack_is_downloaded_into_them_once(server, tl, tmp_path):
    endpoint, vit = server
    code = f"""
from rsr_cli.core.encoders.registry import MODELS
from rsr_cli.core.encoders.weights import TorchFile, find
from rsr_cli.core.errors import WeightsError
for published in (MODELS["prithvi_eo_v2_tiny_tl"].weights, TorchFile("{endpoint}/{vit}")):
    print(published.cached(), find("model", None, published) == find("model", None, published), published.cached())
try:
    find("model", None, MODELS["prithvi_eo_v2_300"].weights)
except WeightsError as error:
    print(error)
"""
    home = {"HF_HOME": str(tmp_path / "hf"), "TORCH_HOME": str(tmp_path / "torch")}
    done = run(code=code, HF_ENDPOINT=endpoint, no_proxy="127.0.0.1", **home)
    hub, torchvision, missing = done.stdout.splitlines()
    for line, name in ((hub, tl.name), (torchvision, vit)):
        before, same, after = line.split()
        assert (before, same) == ("None", "True")
        assert after.startswith(f"{tmp_path}/")
        assert after.endswith(f"/{name}")
        assert Path(after).read_bytes() == tl.read_bytes()
    assert missing.startswith("https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-2.0-300M/")
    assert "cannot be downloaded" in missing
    assert done.stderr == ""


def test_a_hub_that_does_not_answer_is_given_up_within_seconds(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        done = run("prithvi_eo_v2_300", HF_HOME=str(tmp_path), HF_ENDPOINT=endpoint, no_proxy="127.0.0.1")
    assert time.monotonic() - started < 15
    published = "https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-2.0-300M/resolve/main/Prithvi_EO_V2_300M.pt"
    missing = f"the weights of prithvi_eo_v2_300 ({published}) are not in {tmp_path}/hub"
    assert f"WeightsError {missing} and {endpoint}" in done.stdout
    assert "does not answer" in done.stdout
    assert done.stderr == ""


def test_errors_are_one_line(tmp_path):
    with pytest.raises(RsrError) as caught:
        load_encoder(settings("prithvi_eo_v1_100", tmp_path / "nowhere.pt"))
    assert "\n" not in str(caught.value)
