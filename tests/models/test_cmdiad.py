from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM
from torch import Generator, Tensor
from torch.nn import functional as F

from edge_ad.bundle import FULL, InputSpec
from edge_ad.config import CmdiadConfig, PreprocessConfig
from edge_ad.export import onnx_from_graph, parity
from edge_ad.export_graphs import Graph
from edge_ad.models.backbones import BACKBONES
from edge_ad.models.cmdiad import (
    Bank,
    Cmdiad,
    CmdiadHead,
    greedy_coreset,
    one_class_weights,
    patch_tokens,
    projected,
    sampled,
)
from edge_ad.models.detector import Detector, DetectorConfig
from edge_ad.models.layers import Features
from edge_ad.models.method import Batch
from edge_ad.types import Roi

Array = NDArray[np.float64]
LITE = "efficientnet_lite0"
SPEC = InputSpec(frame_size_px=(64, 80), roi=Roi(0, 0, 80, 64), depth="float32_m", depth_unit_m=1, intrinsics=None)
MAINS = ["rgb", "3d", "both"]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def make_detector(main: str = "rgb", backbone: str = LITE, **choices: object) -> Detector:
    torch.manual_seed(1)
    config = DetectorConfig(
        model="cmdiad",
        backbone=backbone,
        preprocess=PreprocessConfig(modalities=("depth", "rgb"), image_size_px=64),
        cmdiad=CmdiadConfig.model_validate({"main": main, "bank_share": 0.5, **choices}),
        input=SPEC,
    )
    return Detector(config)


def make_cmdiad(main: str = "rgb", **choices: object) -> Cmdiad:
    method = make_detector(main, LITE, **choices).method
    assert isinstance(method, Cmdiad)
    return method


def make_batch(names: tuple[str, ...] = ("rgb", "depth"), count: int = 4, seed: int = 0) -> Batch:
    """Frames that share a scene per modality and differ by noise, in maps of 16², 8² and 4² as of 64×64 images."""
    features = {}
    for index, name in enumerate(names):
        sizes = list(zip(BACKBONES[LITE].channels, (16, 8, 4), strict=True))
        scene = [torch.randn(1, channels, side, side, generator=seeded(100 + index)) for channels, side in sizes]
        generator = seeded(seed)
        features[name] = [x + 0.3 * torch.randn(count, *x.shape[1:], generator=generator) for x in scene]
    return Batch(features)


def finished(main: str = "rgb", **choices: object) -> Cmdiad:
    method = make_cmdiad(main, **choices)
    method.finish(lambda: [make_batch(seed=seed) for seed in (1, 2)])
    return method


@torch.no_grad()
def learned_head(method: Cmdiad, region: Tensor | None = None) -> CmdiadHead:
    head = method.head(FULL)
    assert isinstance(head, CmdiadHead)
    head.learn(method.distances(make_batch(count=12, seed=3), FULL), region)
    return head


def cameras(count: int = 4) -> dict[str, Tensor]:
    """Random frames, the upper part without depth."""
    depth = 0.5 + 0.1 * torch.rand(count, 64, 80, generator=seeded(5))
    depth[:, :20] = 0
    rgb = torch.randint(0, 256, (count, 64, 80, 3), dtype=torch.uint8, generator=seeded(6))
    return {"rgb": rgb, "depth": depth}


def double(x: Tensor) -> Array:
    array: Array = x.detach().double().numpy()
    return array


# Tokens and their hallucination.


def test_tokens_are_neighbourhood_means_of_two_scales() -> None:
    maps = make_batch().features["rgb"]
    tokens = patch_tokens(maps)
    assert tokens.shape == (4, 64, 40 + 112)
    token = tokens[1].reshape(8, 8, -1)
    torch.testing.assert_close(token[3, 4, :40], maps[1][1, :, 2:5, 3:6].mean((1, 2)))
    torch.testing.assert_close(token[0, 0, :40], maps[1][1, :, :2, :2].mean((1, 2)))  # nothing beyond the border
    # Sample 0 of 8 lies at −¼ of 4, that is on its border sample.
    torch.testing.assert_close(token[0, 0, 40:], maps[2][1, :, :2, :2].mean((1, 2)))


def test_the_loss_is_the_mean_distance_of_tokens() -> None:
    method, batch = make_cmdiad(), make_batch()
    (loss,) = method.losses(batch, seeded())
    assert method.hallucinator is not None
    guess = double(method.hallucinator(patch_tokens(batch.features["rgb"])))
    target = double(patch_tokens(batch.features["depth"]))
    expected = np.mean([np.linalg.norm(guess[n, t] - target[n, t]) for n, t in np.ndindex(guess.shape[:2])])
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_the_network_learns_a_mapping() -> None:
    method = make_cmdiad()
    optimizer = torch.optim.Adam(method.parameters(), 2e-3)
    mixing = [torch.randn(c, c, 1, 1, generator=seeded(c)) / c**0.5 for c in BACKBONES[LITE].channels]

    def frames(seed: int) -> Batch:
        rgb = make_batch(("rgb",), seed=seed).features["rgb"]
        return Batch({"rgb": rgb, "depth": [F.conv2d(x, w) for x, w in zip(rgb, mixing, strict=True)]})

    first = float(method.losses(frames(0), seeded())[0].detach())
    for step in range(60):
        (loss,) = method.losses(frames(step), seeded())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert float(method.losses(frames(999), seeded())[0].detach()) < 0.5 * first


def test_two_real_sensors_leave_nothing_to_train() -> None:
    method = make_cmdiad("both")
    optimizer = torch.optim.Adam(method.parameters(), 1)
    before = {name: x.clone() for name, x in method.state_dict().items()}
    (loss,) = method.losses(make_batch(), seeded())
    torch.autograd.backward(loss)
    optimizer.step()
    assert float(loss.detach()) == 0
    assert all(torch.equal(x, before[name]) for name, x in method.state_dict().items())


# Banks.


def naive_reweighted(distances: Array, channels: int) -> float:
    nearest, scale = min(distances), channels**0.5
    return float(nearest * (1 - np.exp(nearest / scale) / sum(np.exp(d / scale) for d in distances)))


def test_the_search_is_scikit_learns() -> None:
    bank = Bank(20, neighbours=3)
    bank.tokens = 5 + torch.randn(200, 20, generator=seeded(1))
    queries = 5 + torch.randn(3, 50, 20, generator=seeded(2))
    expected, _ = NearestNeighbors(n_neighbors=3).fit(double(bank.tokens)).kneighbors(double(queries).reshape(150, 20))
    np.testing.assert_allclose(double(bank.nearest(queries).sort(2).values).reshape(150, 3), expected, rtol=1e-5)
    nearest, weighted = bank(queries)
    np.testing.assert_allclose(double(nearest).reshape(-1), expected[:, 0], rtol=1e-5)
    naive = [naive_reweighted(row, 20) for row in expected]
    np.testing.assert_allclose(double(weighted).reshape(-1), naive, rtol=1e-5)


def test_a_token_of_the_bank_is_at_no_distance() -> None:
    bank = Bank(152, neighbours=3)
    bank.tokens = 100 + torch.randn(500, 152, generator=seeded(1))  # |a|² + |b|² − 2ab alone would be off by tenths
    assert float(bank(bank.tokens[None])[0].max()) == 0


@pytest.mark.parametrize(("rows", "neighbours"), [(1, 3), (5, 1)], ids=["one token", "one neighbour"])
def test_a_single_neighbour_gives_no_weight(rows: int, neighbours: int) -> None:
    bank = Bank(4, neighbours)
    bank.tokens = torch.randn(rows, 4, generator=seeded(1))
    nearest, weighted = bank(torch.randn(1, 6, 4, generator=seeded(2)))
    torch.testing.assert_close(weighted, nearest)


def naive_coreset(points: Array, count: int) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(np.argmax([min(np.linalg.norm(p - points[c]) for c in chosen) for p in points])))
    return chosen


def covering_radius(points: Array, chosen: list[int]) -> float:
    return float(np.linalg.norm(points[:, None] - points[chosen], axis=2).min(1).max())


def test_the_coreset_is_the_greedy_one() -> None:
    points = torch.randn(80, 6, generator=seeded(3))
    chosen = greedy_coreset(points, 15).tolist()
    assert chosen == naive_coreset(double(points), 15)
    radii = [covering_radius(double(points), chosen[:count]) for count in range(1, 16)]
    assert radii == sorted(radii, reverse=True)
    drawn = [np.random.default_rng(seed).choice(80, 15, replace=False).tolist() for seed in range(20)]
    assert radii[-1] < min(covering_radius(double(points), indices) for indices in drawn)


def test_the_coreset_takes_no_row_twice() -> None:
    points = torch.randn(5, 3, generator=seeded(4)).repeat(4, 1)
    chosen = greedy_coreset(points, 20).tolist()
    assert sorted(chosen) == list(range(20))
    assert covering_radius(double(points), chosen[:5]) == 0


def test_only_wide_tokens_are_projected() -> None:
    narrow, wide = torch.randn(300, 130, generator=seeded(1)), torch.randn(300, 1536, generator=seeded(2))
    assert projected(narrow) is narrow
    fewer = projected(wide)
    assert fewer.shape == (300, 140)  # 4 ln 300 / (0.9²/2 − 0.9³/3)
    torch.testing.assert_close(fewer, projected(wide))
    ratio = torch.pdist(fewer) / torch.pdist(wide)
    assert float(ratio.min()) > 0.5 and float(ratio.max()) < 1.5


def test_every_token_is_as_likely_to_be_drawn() -> None:
    chunks = [torch.arange(start, start + 50.0)[:, None] for start in range(0, 1000, 50)]
    few, total = sampled(chunks, 200)
    assert total == 1000 and len(few) == len(set(few[:, 0].tolist())) == 200
    assert few.mean() == pytest.approx(500, abs=65)  # three standard deviations
    everything, _ = sampled(chunks, 1000)
    assert sorted(everything[:, 0].tolist()) == list(range(1000))


@pytest.mark.parametrize("main", MAINS)
def test_banks_hold_real_and_hallucinated_tokens_of_the_training_frames(main: str) -> None:
    method = finished(main)
    first, second = method.names
    assert tuple(method.banks) == method.maps
    batches = [make_batch(seed=seed) for seed in (1, 2)]
    real = {name: torch.cat([patch_tokens(batch.features[name]) for batch in batches]) for name in (first, second)}
    with torch.no_grad():
        expected = (real[first], method.hallucinator(real[first]) if method.hallucinator else real[second])
        for name, tokens in zip(method.maps, expected, strict=True):
            bank = method.banks[name].tokens
            assert isinstance(bank, Tensor) and bank.shape == (256, 152)  # half of 8 frames × 64
            assert float(torch.cdist(bank, tokens.flatten(0, 1)).amin(1).max()) < 1e-2


def test_a_bank_stays_within_its_limit() -> None:
    assert len(finished(bank_limit=20).get_buffer("banks.rgb.tokens")) == 20
    assert len(finished(bank_share=0.001).get_buffer("banks.rgb.tokens")) == 1


def test_a_fresh_method_takes_a_bank_of_any_size() -> None:
    method, fresh = finished(), make_cmdiad()
    fresh.load_state_dict({name: x.clone() for name, x in method.state_dict().items()})
    batch = make_batch(seed=7)
    with torch.no_grad():
        for name, maps in method.eval().distances(batch, FULL).items():
            torch.testing.assert_close(fresh.eval().distances(batch, FULL)[name], maps, rtol=0, atol=0)


def test_a_bank_of_other_channels_is_refused() -> None:
    state = finished().state_dict() | {"banks.rgb.tokens": torch.zeros(7, 3)}
    with pytest.raises(RuntimeError, match=r"banks\.rgb\.tokens"):
        make_cmdiad().load_state_dict(state)


# Only the main sensor is read.


class OnlyOne(Mapping[str, Features]):
    """Features that refuse to give any but one modality's."""

    def __init__(self, features: Mapping[str, Features], name: str) -> None:
        self.features, self.name = features, name

    def __getitem__(self, name: str) -> Features:
        assert name == self.name
        return self.features[name]

    def __iter__(self) -> Iterator[str]:
        return iter([self.name])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("main", "reads", "maps"),
    [
        ("rgb", ("rgb",), {"rgb", "hallucinated_depth"}),
        ("3d", ("depth",), {"depth", "hallucinated_rgb"}),
        ("both", ("depth", "rgb"), {"depth", "rgb"}),
    ],
    ids=MAINS,
)
def test_the_absent_sensor_is_not_read(main: str, reads: tuple[str, ...], maps: set[str]) -> None:
    detector = make_detector(main).eval()
    assert detector.method.modes == {FULL: reads}
    operating, frames = detector.operating(), cameras()
    assert set(operating.input_names) == set(reads)
    assert set(operating.output_names) == {"anomaly_map", "score", *(f"map_{name}" for name in maps)}
    with torch.no_grad():
        results = operating(*(frames[name] for name in operating.input_names))
        if len(reads) == 1:
            batch = Batch(OnlyOne(make_batch().features, reads[0]))
            assert set(detector.method.distances(batch, FULL)) == maps
    assert [x.shape for x in results] == [(4, 64, 64), (4,), (4, 64, 64), (4, 64, 64)]


# The head.


@pytest.mark.parametrize("frames", [12, 500])
def test_the_svm_finds_libsvms_direction(frames: int) -> None:
    samples = np.abs(np.random.default_rng(1).normal([8, 15], [0.5, 2.4], (frames, 2)))
    spread = samples.std(0)
    weights = double(one_class_weights(torch.from_numpy(samples), 0.5))
    expected = OneClassSVM(kernel="linear", nu=0.5).fit(samples / spread).coef_[0] / spread
    np.testing.assert_allclose(weights / np.linalg.norm(weights), expected / np.linalg.norm(expected), atol=0.03)


def test_the_joint_score_rises_with_every_distance() -> None:
    for samples in ([[5.0, 0.0], [5.1, 0.0], [4.9, 0.0]], [[0.0, 0.0]] * 3, [[3.0, 4.0]] * 2):
        assert bool((one_class_weights(torch.tensor(samples), 0.5) > 0).all())
    method = finished()
    head, distances = learned_head(method), method.distances(make_batch(seed=8), FULL)
    with torch.no_grad():
        anomaly_map, score, _ = head(distances, None)
        for name in distances:
            farther = {key: [x + (key == name) for x in maps] for key, maps in distances.items()}
            higher_map, higher_score, _ = head(farther, None)
            assert bool((higher_map > anomaly_map).all()) and bool((higher_score > score).all())


@pytest.mark.parametrize("main", MAINS)
@pytest.mark.parametrize("masked", [False, True], ids=["everywhere", "on the part"])
def test_one_unit_serves_map_and_score(main: str, masked: bool) -> None:
    method = finished(main)
    region = torch.zeros(1, 1, 64, 64)
    region[..., 16:48, 8:56] = 1
    region = region if masked else torch.ones_like(region)
    head = learned_head(method, region if masked else None)
    with torch.no_grad():
        distances = method.distances(make_batch(count=12, seed=3), FULL)
        anomaly_map, score, maps = head(distances, region if masked else None)
    inside = double(anomaly_map[region.expand(12, -1, -1, -1)[:, 0] > 0])
    assert (inside.mean(), inside.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, rel=1e-3))
    peaks = double(anomaly_map.amax((1, 2)))
    assert float(score.mean()) == pytest.approx(peaks.mean(), rel=1e-3)
    assert float(score.std(correction=0)) == pytest.approx(peaks.std(), rel=1e-3)
    torch.testing.assert_close(torch.stack(list(maps.values())).sum(0), anomaly_map)
    assert tuple(maps) == method.maps


def test_equal_validation_frames_still_give_finite_scores() -> None:
    method = finished()
    head = method.head(FULL)
    distances = method.distances(make_batch(count=1, seed=3), FULL)
    with torch.no_grad():
        head.learn({name: [x.expand(3, -1, -1, -1) for x in maps] for name, maps in distances.items()}, None)
        same = head(distances, None)[1]
        farther = head({name: [1.1 * x for x in maps] for name, maps in distances.items()}, None)[1]
    assert bool(torch.isfinite(same).all()) and bool((farther > same).all())


def test_tokens_beside_the_part_do_not_count() -> None:
    method = finished()
    region = torch.zeros(1, 1, 64, 64)
    region[..., :32] = 1  # the left half
    head = learned_head(method, region)
    batch = make_batch(seed=9)
    with torch.no_grad():
        good = head(method.distances(batch, FULL), region)[1]
        for columns, counts in ((slice(6, 8), False), (slice(1, 3), True)):
            maps = [x.clone() for x in batch.features["rgb"]]
            maps[1][:, :, 3:5, columns] += 5
            score = head(method.distances(Batch({"rgb": maps}), FULL), region)[1]
            # Right of the part only what the hallucinating network sees could change; it sees single tokens.
            assert bool((score > good + 1).all()) == counts
            if not counts:
                torch.testing.assert_close(score, good)


@pytest.mark.parametrize("main", MAINS)
def test_a_planted_defect_stands_out(main: str) -> None:
    method = finished(main)
    head, batch = learned_head(method), make_batch(seed=11)
    name = method.names[0]
    maps = [x.clone() for x in batch.features[name]]
    maps[1][:, :, 5:7, 1:3] = maps[1][:, :, 1:3, 5:7]  # what belongs elsewhere
    maps[1][:, :20, 5:7, 1:3] += 2
    with torch.no_grad():
        _, good, _ = head(method.distances(batch, FULL), None)
        anomaly_map, score, _ = head(method.distances(Batch({**batch.features, name: maps}), FULL), None)
    assert float(score.min()) > float(good.max()) + 2
    row, column = np.unravel_index(int(anomaly_map[0].argmax()), (64, 64))
    assert 36 <= row < 60 and 4 <= column < 28


@pytest.mark.parametrize("main", ["rgb", "both"])
def test_the_whole_detector_exports(main: str) -> None:
    detector, frames = make_detector(main).eval(), cameras()
    with torch.no_grad():
        detector.preprocess.learn_occupancy(frames["depth"])
        batch, _ = detector.batch(frames)
        detector.scaling.learn([detector.teacher(batch.images)])
        batch, _ = detector.batch(frames)
        detector.method.finish(lambda: [batch])
        operating = detector.operating()
        arrays = {name: x.flip(1) for name, x in frames.items() if name in operating.input_names}
        seen, region = detector.batch(arrays, operating.modalities)
        detector.heads[FULL].learn(detector.method.distances(seen, FULL), region)  # type: ignore[operator]
    graph = Graph(
        "model",
        operating,
        tuple(arrays[n] for n in operating.input_names),
        operating.input_names,
        operating.output_names,
        is_whole=True,
    )
    content = onnx_from_graph(graph).SerializeToString()
    assert parity(graph, content) < 1e-4
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == list(operating.input_names)
    one = session.run(["score"], {name: arrays[name][:1].numpy() for name in operating.input_names})[0]
    with torch.no_grad():
        expected = operating(*(arrays[name][:1] for name in operating.input_names))[1]
    np.testing.assert_allclose(one, expected.numpy(), atol=1e-4)


def test_resnets_work_too() -> None:
    backbone = "resnet18"
    method = make_detector("rgb", backbone).method
    maps = [torch.rand(2, c, s, s) for c, s in zip(BACKBONES[backbone].channels, (16, 8, 4), strict=True)]
    batch = Batch({"rgb": maps, "depth": maps})
    method.finish(lambda: [batch])
    assert method.losses(batch, seeded())[0] > 0
    with torch.no_grad():
        for found in method.distances(batch, FULL).values():
            assert [x.shape for x in found] == [(2, 1, 8, 8)] * 2
