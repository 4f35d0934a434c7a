from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_ad.errors import CheckpointError
from edge_ad.models.checkpoint import CHECKPOINT, load_detector, read_checkpoint, read_golden


def test_a_file_and_its_directory_are_the_same(rd_run: Path) -> None:
    record, tensors = read_checkpoint(rd_run)
    other_record, other = read_checkpoint(rd_run / CHECKPOINT)
    assert record == other_record
    assert tensors.keys() == other.keys()


def test_a_loaded_detector_has_the_weights_of_the_file(rd_run: Path) -> None:
    detector, record = load_detector(rd_run)
    tensors = load_file(rd_run / CHECKPOINT)
    assert record.finished and not any(module.training for module in detector.method.modules())
    assert all(torch.equal(value, tensors[name]) for name, value in detector.state_dict().items())


def test_a_checkpoint_without_golden_samples_is_named(rd_run: Path, tmp_path: Path) -> None:
    record, tensors = read_checkpoint(rd_run)
    kept = {name: x for name, x in tensors.items() if not name.startswith("golden.")}
    save_file(kept, tmp_path / CHECKPOINT, metadata={"edge_ad": record.model_dump_json()})
    with pytest.raises(CheckpointError, match="holds no golden samples"):
        read_golden(tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(**changes: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        tensors, record = load_file(path), read_checkpoint(path)[0].model_dump_json()
        for old, new in changes.items():
            assert f'"{old}"' in record
            record = record.replace(f'"{old}"', f'"{new}"')
        save_file(tensors, path, metadata={"edge_ad": record})

    return change


def drop_a_tensor(path: Path) -> None:
    record, tensors = read_checkpoint(path)
    tensors.pop("method.students.depth.decoder.heads.0.weight")
    save_file(tensors, path, metadata={"edge_ad": record.model_dump_json()})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda path: path.unlink(), "there is no checkpoint at", id="missing"),
        pytest.param(lambda path: path.write_bytes(b""), "is damaged", id="empty"),
        pytest.param(truncate, "is damaged", id="truncated"),
        pytest.param(lambda path: path.write_bytes(b"PK\3\4" * 99), "is damaged", id="a zip file"),
        pytest.param(
            lambda path: save_file({"x": torch.zeros(1)}, path), "is not a checkpoint of edge-ad", id="foreign"
        ),
        pytest.param(edit(schema_version="schema"), "there is no setting schema", id="other schema"),
        pytest.param(edit(rd="padim"), "model is not valid.*padim", id="unknown model"),
        pytest.param(edit(rd="mmrd"), "mmrd takes 2 to 3 modalities", id="other model"),
        pytest.param(edit(efficientnet_lite0="vgg16"), "backbone is not valid.*vgg16", id="other backbone"),
        pytest.param(edit(efficientnet_lite0="resnet18"), "does not fit its own settings", id="other weights"),
        pytest.param(drop_a_tensor, "does not fit its own settings", id="a tensor less"),
    ],
)
def test_a_damaged_checkpoint_is_named(
    rd_run: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes((rd_run / CHECKPOINT).read_bytes())
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_detector(tmp_path)
    assert str(path) in str(caught.value)
