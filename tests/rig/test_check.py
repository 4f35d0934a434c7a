"""Each fault makes its own finding and no other; a healthy rig makes none, on twenty days."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from edge_ad.bundle import InputSpec, Manifest, RigReference
from edge_ad.errors import CameraError, DataError
from edge_ad.geometry import Plane
from edge_ad.rig.check import check
from edge_ad.rig.findings import Finding, Status, healthy
from edge_ad.rig.identity import check_camera, check_frames, fits
from edge_ad.rig.record import Rig
from edge_ad.types import CameraInfo, Frame, Intrinsics, Roi
from tests.factories import make_bundle
from tests.rig.scenes import CAMERA, DISTANCE_M, HEIGHT_PX, INFO, WIDTH_PX, Scene, plane_at

OTHER_DAY = 1


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Scene().rig()


def found(rig: Rig, scene: Scene, noise_seed: int = OTHER_DAY) -> dict[str, Finding]:
    findings = check(rig, scene.observed(noise_seed=noise_seed))
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    return {finding.name: finding for finding in findings}


def troubles(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: item.status.value for name, item in findings.items() if item.status is not Status.OK}


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_rig_is_quiet(seed: int) -> None:
    """Twenty tables and days, with the little that changes from day to day."""
    random = np.random.default_rng(seed)
    plane = plane_at(DISTANCE_M + random.uniform(-3e-4, 3e-4), 1 + random.uniform(-0.05, 0.05), -0.5)
    day = Scene(seed=seed, plane=plane, gain=random.uniform(0.95, 1.05), hole_share=0.012, noise_m=0.00085)
    findings = found(Scene(seed=seed).rig(), day)
    assert troubles(findings) == {}
    assert len(findings) >= 12


FAULTS = [
    pytest.param(Scene(shift_px=(2, -1)), "image_shift", "warn", 5**0.5, id="shifted by 2.2 px"),
    pytest.param(Scene(shift_px=(-6, 4)), "image_shift", "fail", 52**0.5, id="shifted by 7.2 px"),
    pytest.param(Scene(plane=plane_at(DISTANCE_M, 1.3, -0.5)), "plane_tilt", "warn", 0.3, id="tilted by 0.3°"),
    pytest.param(Scene(plane=plane_at(DISTANCE_M, 1.0, 0.5)), "plane_tilt", "fail", 1.0, id="tilted by 1°"),
    pytest.param(Scene(plane=plane_at(0.6015, 1.0, -0.5)), "plane_distance", "warn", 1.5, id="1.5 mm farther"),
    pytest.param(Scene(plane=plane_at(0.596, 1.0, -0.5)), "plane_distance", "fail", 4.0, id="4 mm nearer"),
    pytest.param(Scene(gain=0.85), "brightness", "warn", 15.0, id="darker"),
    pytest.param(Scene(gain=1.4), "brightness", "fail", 40.0, id="brighter"),
    pytest.param(Scene(blur_px=1.5), "sharpness", "fail", None, id="blurred"),
    pytest.param(Scene(hole_share=0.04), "depth_fill", "warn", 3.0, id="3 % lost"),
    pytest.param(Scene(hole_share=0.21), "depth_fill", "fail", 20.0, id="20 % lost"),
    pytest.param(Scene(noise_m=0.0016), "depth_noise", "warn", 2.0, id="noise doubled"),
    pytest.param(Scene(noise_m=0.0032), "depth_noise", "fail", 4.0, id="noise fourfold"),
    pytest.param(Scene(info=replace(INFO, details={"usb": "2.1"})), "usb", "fail", None, id="USB 2"),
    pytest.param(Scene(fps=25), "fps", "warn", 25.0, id="25 fps"),
    pytest.param(Scene(fps=15), "fps", "fail", 15.0, id="15 fps"),
    pytest.param(Scene(skew_ms=17), "skew", "warn", 17.0, id="17 ms apart"),
    pytest.param(Scene(metadata={"exposure_us": 16000, "gain": 16}), "exposure", "fail", 100.0, id="exposed longer"),
    pytest.param(Scene(info=replace(INFO, serial="B43")), "serial", "fail", None, id="another camera"),
    pytest.param(Scene(step=(Roi(60, 40, 40, 30), 0.02)), "empty", "fail", 100 / 16, id="a part left in it"),
]


@pytest.mark.parametrize(("scene", "name", "status", "value"), FAULTS)
def test_each_fault_is_named_and_nothing_else(
    rig: Rig, scene: Scene, name: str, status: str, value: float | None
) -> None:
    findings = found(rig, scene)
    assert troubles(findings) == {name: status}
    finding = findings[name]
    assert finding.remedy and finding.limit
    assert healthy(findings.values()) is (status == "warn")
    if value is not None:
        assert finding.value == pytest.approx(value, rel=0.12)


def test_a_smudge_on_a_part_of_the_lens_is_enough(rig: Rig) -> None:
    seen, dirty = Scene().observed(noise_seed=OTHER_DAY), Scene(blur_px=1.5).observed(noise_seed=OTHER_DAY)
    assert seen.maps.grey is not None and dirty.maps.grey is not None
    grey = seen.maps.grey.copy()
    grey[:60, :80] = dirty.maps.grey[:60, :80]
    findings = {item.name: item for item in check(rig, replace(seen, maps=replace(seen.maps, grey=grey)))}
    assert troubles(findings) == {"sharpness": "fail"}


def test_other_intrinsics_are_found_and_nothing_else_is_compared(rig: Rig) -> None:
    zoomed = replace(CAMERA, fx=420.0)
    assert troubles(found(rig, Scene(intrinsics=zoomed))) == {"intrinsics": "fail"}
    smaller = calibrated_smaller()
    findings = found(smaller, Scene())
    assert troubles(findings) == {"size": "fail"}
    assert "plane_tilt" not in findings and "brightness" not in findings


def calibrated_smaller() -> Rig:
    """A rig of a camera in another mode."""
    rig = Scene().rig()
    camera = rig.record.camera.model_copy(update={"frame_size_px": (HEIGHT_PX // 2, WIDTH_PX // 2)})
    return replace(rig, record=rig.record.model_copy(update={"camera": camera}))


def test_a_table_without_structure_tells_no_sharpness() -> None:
    bare = Scene(blur_px=20)
    findings = found(bare.rig(), bare)
    assert troubles(findings) == {"sharpness": "unknown"}
    assert healthy(findings.values())


def test_a_scene_that_is_not_known_again_is_unknown(rig: Rig) -> None:
    assert found(rig, Scene(seed=5))["image_shift"].status is Status.UNKNOWN


def test_no_table_is_a_failure(rig: Rig) -> None:
    findings = found(rig, Scene(hole_share=1.0))
    assert findings["plane_distance"].status is Status.FAIL
    assert "no table is seen" in findings["plane_distance"].figure
    assert findings["depth_fill"].status is Status.FAIL


def test_limits_are_the_rigs_own(rig: Rig) -> None:
    limits = rig.record.limits.model_copy(update={"brightness": (0.5, 0.6)})
    lenient = replace(rig, record=rig.record.model_copy(update={"limits": limits}))
    assert troubles(found(lenient, Scene(gain=0.85))) == {}


def test_a_run_refuses_another_camera(rig: Rig) -> None:
    frame = next(Scene().frames(1))
    check_camera(rig, INFO, frame)
    with pytest.raises(CameraError, match="serial number: B43, the rig has B42"):
        check_camera(rig, replace(INFO, serial="B43"), frame)
    with pytest.raises(CameraError, match="frame size: 80×60 px, the rig has 160×120 px"):
        check_camera(rig, INFO, Frame(depth=np.ones((60, 80), np.uint16)))
    with pytest.raises(CameraError, match="factory calibration: fx 420"):
        check_camera(rig, INFO, replace(frame, intrinsics=replace(CAMERA, fx=420.0)))


@pytest.mark.parametrize(
    ("plane", "told"),
    [
        pytest.param(plane_at(DISTANCE_M, 1.0, -0.5), "", id="in place"),
        pytest.param(plane_at(0.604, 1.0, -0.5), r"it is 4\.\d mm farther and turned by 0\.\d\d°", id="farther"),
        pytest.param(plane_at(DISTANCE_M, 1.8, -0.5), "and turned by 0.8", id="turned"),
    ],
)
def test_captures_of_another_place_are_refused(rig: Rig, plane: Plane, told: str) -> None:
    frames = list(Scene(plane=plane, step=(Roi(50, 35, 60, 50), 0.03)).frames(3, noise_seed=4))
    with pytest.raises(DataError, match=told) if told else nullcontext():
        check_frames(rig, frames)
    check_frames(rig, [replace(frame, depth=None) for frame in frames])
    check_frames(rig, [Frame(depth=np.ones((60, 80), np.uint16))])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_bundle(tmp_path_factory.mktemp("models") / "bundle").manifest


def trained_on(rig: Rig, **changes: object) -> RigReference:
    return rig.reference.model_copy(update={"sha256": "another measurement", **changes})


@pytest.mark.parametrize(
    ("intrinsics", "changes", "why"),
    [
        pytest.param(CAMERA, None, "", id="without a rig"),
        pytest.param(CAMERA, {}, "", id="measured again"),
        pytest.param(replace(CAMERA, fx=500.0), None, "other intrinsics", id="intrinsics"),
        pytest.param(CAMERA, {"serial": "B43"}, "the rig of camera B43, this one has B42", id="serial"),
        pytest.param(CAMERA, {"plane": plane_at(0.61, 1.0, -0.5)}, "another by 10.0 mm", id="distance"),
        pytest.param(CAMERA, {"plane": plane_at(DISTANCE_M, 2.0, -0.5)}, "the table has turned by", id="turned"),
    ],
)
def test_a_model_belongs_to_a_rig_or_says_why_not(
    rig: Rig, manifest: Manifest, intrinsics: Intrinsics, changes: dict[str, object] | None, why: str
) -> None:
    spec = InputSpec(
        frame_size_px=(HEIGHT_PX, WIDTH_PX),
        roi=Roi(0, 0, WIDTH_PX, HEIGHT_PX),
        depth="uint16_planes",
        depth_unit_m=0.0001,
        intrinsics=intrinsics,
    )
    known = None if changes is None else trained_on(rig, **changes)
    data = manifest.training_data.model_copy(update={"rig": known})
    told = fits(rig, spec, data.rig)
    assert why in told and bool(why) is bool(told)


def test_a_model_of_other_frames_does_not_fit(rig: Rig, manifest: Manifest) -> None:
    assert fits(rig, manifest.input, None) == "it wants frames of 64×64 px, the rig's have 160×120 px"


def test_usb_2_is_also_read_from_a_warning() -> None:
    slow = replace(Scene().observed(), info=CameraInfo("c", "B42", True, warnings=("the link is USB 2.1",)))
    findings = {item.name: item for item in check(Scene().rig(), slow)}
    assert findings["usb"].status is Status.FAIL
