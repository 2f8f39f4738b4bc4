"""Find a model's checkpoint and load it, complete and as data only.

A checkpoint is a file that the user names, or a published one, from the local cache or else from the network. No code
in a checkpoint is ever run (``weights_only=True`` or safetensors).
"""

from __future__ import annotations

import importlib.util
import pickle
import re
import socket
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.encoders.digest import sha256_of
from rsr_cli.core.errors import UsageError, WeightsError
from rsr_cli.core.inputs import note_mapped, open_regular

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

#: Time that a server may be silent.
TIMEOUT_S = 30
#: Endings of files that ``torch.load`` reads; ``.safetensors`` is the only other one.
_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class HubFile:
    """A file in a repository on the Hugging Face hub."""

    repo: str
    name: str

    def __str__(self) -> str:
        return f"https://huggingface.co/{self.repo}/resolve/main/{self.name}"

    @property
    def home(self) -> str:
        """Path of the cache directory."""
        from huggingface_hub import constants

        return str(constants.HF_HUB_CACHE)

    def cached(self) -> str | None:
        """Return the path of the file in the cache, if it is there."""
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.repo, self.name)
        return path if isinstance(path, str) else None

    def download(self) -> str:
        """Download the file into the cache and return its path."""
        from huggingface_hub import hf_hub_download

        return str(hf_hub_download(self.repo, self.name))


@dataclass(frozen=True)
class TorchFile:
    """A file published by torchvision and cached by ``torch.hub``; its name ends in the start of its sha256."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def home(self) -> str:
        """Path of the cache directory."""
        import torch

        return str(Path(torch.hub.get_dir(), "checkpoints"))

    def cached(self) -> str | None:
        """Return the path of the file in the cache, if it is there."""
        path = Path(self.home, self.url.rsplit("/", 1)[1])
        return str(path) if path.is_file() else None

    def download(self) -> str:
        """Download the file into the cache and return its path."""
        import torch

        path = Path(self.home, self.url.rsplit("/", 1)[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = path.stem.rsplit("-", 1)[1]
        socket.setdefaulttimeout(socket.getdefaulttimeout() or TIMEOUT_S)  # the hub's client has limits of its own
        torch.hub.download_url_to_file(self.url, str(path), hash_prefix=digest, progress=sys.stderr.isatty())
        return str(path)


@dataclass(frozen=True)
class PackageFile:
    """A file in a package that pip installs, whose code is not run."""

    package: str
    path: str

    def __str__(self) -> str:
        return f"https://pypi.org/project/{self.package}"

    def cached(self) -> str | None:
        """Return the path of the file, if the package is installed."""
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        found = [Path(folder, self.path) for folder in (spec.submodule_search_locations or () if spec else ())]
        return next((str(path) for path in found if path.is_file()), None)


#: Where the weights of a model are published.
Published = HubFile | TorchFile | PackageFile


def find(model: str, given: str | None, published: Published | None) -> Path:
    """Find a model's checkpoint.

    Parameters
    ----------
    model : str
        Name of the model, for the message.
    given : str or None
        A file that the user names.
    published : HubFile, TorchFile, PackageFile or None
        The file to use otherwise.

    Returns
    -------
    pathlib.Path
        An existing file.

    Raises
    ------
    WeightsError
        There is no such file, or it cannot be downloaded, or the package is not installed.
    """
    if given is not None:
        if not Path(given).is_file():
            raise WeightsError("no such file", given)
        return Path(given)
    if published is None:
        raise WeightsError(f"{model} has no published weights", remedy="weights")
    path = published.cached()
    if path is None:
        if isinstance(published, PackageFile):
            what = f"the weights of {model} are in {published.package}, which is not installed"
            raise WeightsError(what, remedy="lite0")
        obstacle = _obstacle(published)
        if obstacle:
            raise WeightsError(
                f"the weights of {model} ({published}) are not in {published.home} and {obstacle}", remedy="download"
            )
        try:
            path = published.download()
        except Exception as error:  # from requests, httpx, urllib or the hub's client, depending on its version
            raise WeightsError(f"{published} cannot be downloaded ({_first_line(error)})", remedy="download") from error
    return Path(path)


def _obstacle(published: HubFile | TorchFile) -> str | None:
    """Return what prevents a download, within seconds: the hub's client would log retries for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    url = constants.ENDPOINT if isinstance(published, HubFile) else published.url
    try:
        get_session().head(url, timeout=5)
    except Exception as error:  # from requests or httpx, depending on the version of the hub's client
        return f"{url} does not answer ({_first_line(error)})"
    return None


def read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Read a checkpoint as data.

    Parameters
    ----------
    path : pathlib.Path
        A ``.safetensors`` file, or one that ``torch.save`` wrote (``.pt .pth .bin .ckpt``).

    Returns
    -------
    dict of str to torch.Tensor
        Weights by name, on the CPU, mapped from the file where its layout allows it.
    str
        sha256 of the file, in hexadecimal digits.

    Raises
    ------
    UsageError
        The file's name has another ending.
    WeightsError
        The file is not a checkpoint, or contains code.
    """
    place = str(path)
    if path.suffix not in (*_TORCH_SUFFIXES, ".safetensors"):
        raise UsageError(f"is not a {' '.join(_TORCH_SUFFIXES)} or .safetensors file", place)
    try:
        with open_regular(path) as file:
            head = file.read(200)
            file.seek(0)
            digest = sha256_of(file, path)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", place) from error
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError("is a git-lfs pointer, not the weights themselves; run 'git lfs pull'", place)
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise WeightsError("is a web page, not a checkpoint; download the file itself", place)

    note_mapped(path)
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            checkpoint = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about pickle protocols
                # only the zip layout can be mapped; a file cut short is not seen as one, and fails in torch.load
                checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what the two raise for other bytes is not documented
        raise WeightsError(_what_it_is(path, head, error), place) from error

    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(wrapper), dict):
            checkpoint = checkpoint[wrapper]
    tensors = checkpoint.items() if isinstance(checkpoint, dict) else ()
    state = {str(name): tensor for name, tensor in tensors if isinstance(tensor, torch.Tensor)}
    if not state:
        raise WeightsError("contains no weights by name", place)
    return state, digest


def _what_it_is(path: Path, head: bytes, error: Exception) -> str:
    """Return why a file is not a checkpoint, from its bytes and the reader's error."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code:
        return f"contains code ({code[1]}), and only data is loaded; save only its state_dict"
    if not head:
        return "is empty"
    if path.suffix == ".safetensors":
        short = "incomplete" in str(error).lower()
    else:
        short = head.startswith(b"PK") and not zipfile.is_zipfile(path)
    if short:
        return "is cut short; download it again"
    # torch advises to load it as code
    reason = "" if isinstance(error, pickle.UnpicklingError) or str(error).isdecimal() else f" ({_first_line(error)})"
    return f"is not a checkpoint{reason}"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def fit(
    module: torch.nn.Module,
    state: dict[str, torch.Tensor],
    path: Path,
    model: str,
    published: Published | None,
    optional: tuple[str, ...] = (),
) -> None:
    """Load a module's weights, all of them and no others, and prepare it for inference.

    The module may be on the ``meta`` device: its tensors are replaced by those of `state`.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    state : dict of str to torch.Tensor
        Weights by the module's own names.
    path : pathlib.Path
        The file that `state` was read from.
    model, published : str, HubFile, TorchFile, PackageFile or None
        Name of the model and its published weights, for the message.
    optional : tuple of str
        Prefixes of the names that may be missing.

    Raises
    ------
    WeightsError
        A weight is missing, left over or has another shape.
    """
    own = module.state_dict()
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = {
        "missing": [name for name in own if name not in state and not name.startswith(optional)],
        "left over": [name for name in state if name not in own],
        "with another shape": shapes,
    }
    if any(problems.values()):
        found = "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in problems.items() if names)
        source = f"; they are at {published}" if published else ""
        raise WeightsError(f"does not contain the weights of {model} ({found}){source}", str(path))
    converted = {name: tensor.to(own[name].dtype) for name, tensor in state.items()}
    module.load_state_dict(converted, strict=not optional, assign=True)
    module.eval().requires_grad_(False)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
