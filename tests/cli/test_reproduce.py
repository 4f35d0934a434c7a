from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.cli import reproduce
from tests.cli.command_line import edge_ad
from tests.paper_layouts import write_eyecandies, write_mvtec3d

QUICK = """
batch_size = 4
[preprocess]
image_size_px = 64
"""


@pytest.fixture
def quick(tmp_path: Path) -> tuple[str, ...]:
    """Options that make a reproduction a matter of seconds."""
    path = tmp_path / "quick.toml"
    path.write_text(QUICK)
    return ("--backbone", "efficientnet_lite0", "--epochs", "1", "--config", str(path))


def times(output: Path) -> dict[str, int]:
    return {str(path.relative_to(output)): path.stat().st_mtime_ns for path in output.glob("*/*")}


@pytest.mark.parametrize(
    ("dataset", "write", "names", "model", "label", "paper"),
    [
        ("mvtec3d", write_mvtec3d, ("tire", "bagel"), "crd", "crd-rgb+normals", "TRD RGB+N"),
        ("eyecandies", write_eyecandies, ("Lollipop", "CandyCane"), "mmrd", "mmrd-rgb+normals", "MMRD RGB+N"),
    ],
    ids=["mvtec3d", "eyecandies"],
)
def test_finished_categories_are_kept_and_a_damaged_one_does_not_stop_them(
    dataset: str,
    write: Callable[[Path, int], None],
    names: tuple[str, str],
    model: str,
    label: str,
    paper: str,
    quick: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, output = tmp_path / "data", tmp_path / "runs"
    for seed, name in enumerate(names):
        write(data / name, seed)
    good, damaged = names
    image = next(path for path in sorted((data / damaged).rglob("*.png")) if "train" in path.parts)
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    command: tuple[str | Path, ...] = (
        "reproduce",
        data,
        "--dataset",
        dataset,
        "--model",
        model,
        "--output",
        output,
        *quick,
    )

    done = edge_ad(*command, "--json")
    assert done.exit_code == 1, done.stderr
    result = json.loads(done.stdout)
    assert list(result["categories"]) == [good]
    assert (result["label"], result["paper"]["method"]) == (label, paper)
    assert len(result["missing"]) == 8
    (failure,) = result["failures"]
    assert image.name in failure["what"]
    assert "remedy" in done.stderr
    assert "missing" in done.stderr

    image.write_bytes(whole)
    before = times(output)
    done = edge_ad(*command)
    assert done.exit_code == 0, done.stderr
    after = times(output)
    assert {path: after[path] for path in before} == before
    assert len(after) == 2 * len(before)
    text = (output / "results.md").read_text()
    assert paper in text
    assert "efficientnet_lite0 instead of wide_resnet50_2" in text
    assert [line.split(" | ")[0] for line in text.splitlines()[4:7]] == [f"| {damaged}", f"| {good}", "| mean of 2"]
    assert set(json.loads((output / "results.json").read_text())["categories"]) == set(names)
    assert "mean of 2" in done.stdout

    written: list[int] = []
    monkeypatch.setattr(
        reproduce, "write_results", lambda output, document, markdown: written.append(len(document["categories"]))
    )
    assert edge_ad(*command).exit_code == 0
    assert written == [2, 2]  # the table is whole from the first category on


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (("nowhere", "--dataset", "mvtec3d"), 3, "nowhere lacks bagel"),
        ((".", "--dataset", "visa"), 2, "visa"),
        ((".", "--dataset", "mvtec3d", "--model", "fd"), 2, "no protocol"),
        ((".", "--dataset", "mvtec3d", "--categories", "peach,plum"), 2, "plum"),
        ((".", "--dataset", "mvtec3d", "--config", "none.toml"), 2, "none.toml"),
        (("data", "--dataset", "mvtec3d", "--modalities", "rgb"), 2, "crd takes 2"),
        (("data", "--dataset", "mvtec3d", "--weights", "none.pth"), 4, "none.pth"),
    ],
    ids=["path", "dataset", "model", "category", "config", "modalities", "weights"],
)
def test_bad_input_is_one_clear_error(
    arguments: tuple[str, ...], exit_code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mvtec3d(tmp_path / "data/bagel")
    done = edge_ad("reproduce", *arguments)
    assert done.exit_code == exit_code, done.stderr
    assert text in done.stderr
    assert "remedy" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
