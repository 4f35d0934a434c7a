from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.genicam import GenicamCamera, GenicamOptions
from edge_ad.cameras.genicam_devices import PATH_VARIABLE, list_devices
from edge_ad.cameras.genicam_features import RangeScale
from edge_ad.cameras.genicam_frames import Part, frame_of
from edge_ad.errors import CameraError, ConfigError
from edge_ad.types import Frame, Intrinsics, ReadStatus

pytest.importorskip("harvesters")

TRIGGER_AND_GEOMETRY = """
  <Enumeration Name="TriggerMode"><EnumEntry Name="Off"><Value>0</Value></EnumEntry>
    <EnumEntry Name="On"><Value>1</Value></EnumEntry><Value>0</Value></Enumeration>
  <Enumeration Name="TriggerSource"><EnumEntry Name="Software"><Value>0</Value></EnumEntry>
    <EnumEntry Name="Line1"><Value>1</Value></EnumEntry><Value>1</Value></Enumeration>
  <Command Name="TriggerSoftware"><pValue>Triggered</pValue><CommandValue>1</CommandValue></Command>
  <Integer Name="Triggered"><Value>0</Value></Integer>
  <Enumeration Name="ExposureAuto"><EnumEntry Name="Off"><Value>0</Value></EnumEntry>
    <EnumEntry Name="Continuous"><Value>1</Value></EnumEntry><Value>1</Value></Enumeration>
  <Float Name="ExposureTime"><Value>100</Value><Min>10</Min><Max>5000</Max></Float>
  <Float Name="DeviceTemperature"><Value>41.5</Value></Float>
  <Float Name="Scan3dFocalLength"><Value>500</Value></Float>
  <Float Name="Scan3dPrincipalPointU"><Value>199.5</Value></Float>
  <Float Name="Scan3dPrincipalPointV"><Value>201</Value></Float>
</RegisterDescription>"""
"""What other cameras have, and the virtual ones lack: features that live in the description itself."""


@pytest.fixture(scope="module")
def description(producer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual camera's own description, with more features."""
    from harvesters.core import Harvester, ParameterKey, ParameterSet

    directory = tmp_path_factory.mktemp("xml")
    with pytest.MonkeyPatch.context() as patch, Harvester() as harvester:
        patch.setenv("HARVESTERS_XML_FILE_DIR", str(directory))
        harvester.add_file(str(producer))
        harvester.update()
        keep = ParameterSet({ParameterKey.ENABLE_CLEANING_UP_INTERMEDIATE_FILES: False})
        harvester.create(0, config=keep).destroy()
    (own,) = directory.glob("*Remotedevice*.xml")
    text = own.read_text().replace("</RegisterDescription>", TRIGGER_AND_GEOMETRY)
    path = directory / "more.xml"
    path.write_text(text)
    return path


@pytest.fixture
def camera(request: pytest.FixtureRequest, producer: Path) -> Iterator[GenicamCamera]:
    """A virtual camera; a parameter gives its options."""
    camera = GenicamCamera("1", GenicamOptions(cti=producer, **getattr(request, "param", {})))
    yield camera
    camera.close()


def described(producer: Path, description: Path, **options: object) -> GenicamCamera:
    return GenicamCamera("1", GenicamOptions.model_validate({"cti": producer, "xml": description, **options}))


def read_frame(camera: GenicamCamera) -> Frame:
    frame = camera.read(3.0)
    assert isinstance(frame, Frame)
    return frame


def test_colour_and_depth_of_one_capture(camera: GenicamCamera) -> None:
    info = camera.open()
    assert (info.name, info.serial, info.live) == ("Viky", "1", True)
    assert any("focal length" in warning for warning in info.warnings)
    frame = read_frame(camera)
    assert frame.rgb is not None and frame.depth is not None
    assert frame.rgb.shape == (400, 400, 3) and frame.depth.shape == (400, 400)
    assert frame.depth.dtype == np.float32 and frame.depth_unit_m == 0.001
    assert (frame.source, frame.intrinsics) == ("genicam://1", None)
    # The ball, in the colour that the camera is called by, is what stands out of the plane.
    ball = frame.depth > 0
    assert 0 < ball.mean() < 0.5
    green = (frame.rgb[..., 1] > 100) & (frame.rgb[..., 0] < 100)
    assert (green & ball).sum() > 0.5 * min(green.sum(), ball.sum())


def test_depth_is_the_third_coordinate_of_the_capture(camera: GenicamCamera) -> None:
    camera.open()
    with camera._acquirer.fetch(timeout=3) as buffer:
        components = buffer.payload.components
        wanted = components[3].data.reshape(400, 400).copy()
        frame = frame_of([Part.of(component) for component in components], ("depth",), RangeScale(), "", 0, None, 7)
    assert wanted.max() > 0
    np.testing.assert_array_equal(frame.depth, wanted)


@pytest.mark.parametrize("camera", [{"images": "rgb"}], indirect=True)
def test_colour_alone(camera: GenicamCamera) -> None:
    camera.open()
    frame = read_frame(camera)
    assert camera.caps.images == ("rgb",) and frame.rgb is not None and frame.depth is None


@pytest.mark.parametrize("camera", [{"features": "ComponentSelector:Intensity,PixelFormat:Mono8"}], indirect=True)
def test_grey_becomes_rgb(camera: GenicamCamera) -> None:
    camera.open()
    rgb = read_frame(camera).rgb
    assert rgb is not None
    assert (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all()
    assert np.ptp(rgb) > 0


def test_frames_are_numbered_and_gaps_counted(camera: GenicamCamera) -> None:
    camera.open()
    numbers = [read_frame(camera).sequence for _ in range(3)]
    assert numbers == sorted(set(numbers))
    camera.restart()
    assert read_frame(camera).sequence > numbers[-1]


def test_no_capture_in_time_is_a_timeout(camera: GenicamCamera) -> None:
    camera.open()
    camera.set(fps=1)
    outcomes = [camera.read(0.0) for _ in range(3)]
    assert ReadStatus.TIMEOUT in outcomes


def test_a_device_that_went_is_said_to_be_gone_until_it_is_opened_again(camera: GenicamCamera) -> None:
    camera.open()
    read_frame(camera)
    camera._acquirer.device.module.close()
    outcomes = [camera.read(0.05) for _ in range(10)]
    assert outcomes[-1] is ReadStatus.DISCONNECTED
    assert camera.read(0.05) is ReadStatus.DISCONNECTED
    camera.open()
    read_frame(camera)


def test_ctrl_c_stays_with_the_program(camera: GenicamCamera) -> None:
    before = signal.getsignal(signal.SIGINT)
    camera.open()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("camera", "says"),
    [
        ({"trigger": "software"}, "no feature TriggerMode"),
        ({"exposure_us": 100}, "no feature ExposureTime"),
        ({"features": "Gama:1"}, "no feature Gama"),
        ({"features": "PixelFormat:Mono9"}, "refuses feature PixelFormat to Mono9.*RGBa8, Mono8"),
        ({"xml": "/none.xml"}, "none.xml does not exist"),
    ],
    ids=["trigger", "exposure", "feature", "value", "xml"],
    indirect=["camera"],
)
def test_what_a_camera_lacks_is_named(camera: GenicamCamera, says: str) -> None:
    with pytest.raises(CameraError, match=says):
        camera.open()
    assert camera.info is None


def test_values_out_of_range_are_refused_while_it_runs(camera: GenicamCamera) -> None:
    camera.open()
    camera.set(fps=10)
    with pytest.raises(ConfigError, match="speed"):
        camera.set(speed=1)
    with pytest.raises(ConfigError, match="greater than 0"):
        camera.set(fps=-1)
    with pytest.raises(CameraError, match="no feature Gain"):
        camera.set(gain=1)
    read_frame(camera)


def test_a_missing_camera_or_producer_is_named(producer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CameraError, match="camera 77 not found. attached are 0, 1, 2"):
        camera_from_uri(f"genicam://77?cti={producer}").open()
    with pytest.raises(CameraError, match=r"x\.cti does not exist"):
        camera_from_uri(f"genicam://?cti={tmp_path}/x.cti").open()
    junk = tmp_path / "junk.cti"
    junk.write_bytes(b"no library")
    with pytest.raises(CameraError, match=r"junk\.cti cannot be loaded"):
        camera_from_uri(f"genicam://?cti={junk}").open()
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    with pytest.raises(CameraError, match="no GenTL producer found.*not set"):
        camera_from_uri("genicam").open()
    monkeypatch.setenv(PATH_VARIABLE, "/nowhere")
    with pytest.raises(CameraError, match="no GenTL producer found.*/nowhere"):
        camera_from_uri("genicam").open()


def test_producers_are_found_where_installers_say(producer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATH_VARIABLE, f"/nowhere:{producer.parent}")
    assert [device.serial for device in list_devices()] == ["0", "1", "2"]
    camera = camera_from_uri("genicam")
    info = camera.open()
    assert any("3 cameras are attached" in warning for warning in info.warnings)
    camera.close()


def test_geometry_exposure_and_temperature_where_the_camera_tells(producer: Path, description: Path) -> None:
    camera = described(producer, description, exposure_us=250)
    info = camera.open()
    assert info.warnings == ()
    assert read_frame(camera).intrinsics == Intrinsics(500, 500, 199.5, 201, 400, 400)
    nodes = camera._acquirer.remote_device.node_map
    assert (nodes.ExposureAuto.value, nodes.ExposureTime.value) == ("Off", 250)
    assert camera.health().temperature_c == 41.5
    camera.set(exposure_us=400)
    assert nodes.ExposureTime.value == 400
    with pytest.raises(CameraError, match="refuses feature ExposureTime to 9999"):
        camera.set(exposure_us=9999)
    camera.close()
    assert camera.health().temperature_c is None


@pytest.mark.parametrize(("trigger", "source"), [("software", "Software"), ("line1", "Line1")])
def test_a_trigger_is_chosen(producer: Path, description: Path, trigger: str, source: str) -> None:
    camera = described(producer, description, trigger=trigger)
    assert not camera.caps.paced
    assert (camera.caps.software_trigger, camera.caps.hardware_trigger) == (trigger == "software", trigger == "line1")
    camera.open()
    nodes = camera._acquirer.remote_device.node_map
    assert (nodes.TriggerMode.value, nodes.TriggerSource.value) == ("On", source)
    camera.close()


def test_a_software_trigger_names_its_capture(producer: Path, description: Path) -> None:
    camera = described(producer, description, trigger="software")
    with pytest.raises(CameraError, match="not open"):
        camera.trigger("a")
    camera.open()
    camera.trigger("a")
    assert camera._acquirer.remote_device.node_map.Triggered.value == 1
    assert read_frame(camera).part_id == "a"
    assert read_frame(camera).part_id is None
    camera.close()
    free = described(producer, description)
    with pytest.raises(ConfigError, match="no software trigger"):
        free.trigger("a")


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        (
            '<EnumEntry Name="Millimeter" NameSpace="Standard">',
            '<EnumEntry Name="Pixel">',
            "sends depth as .* in Pixel",
        ),
        ('<EnumEntry Name="CalibratedABC_Grid"', '<EnumEntry Name="UncalibratedC"', "sends depth as UncalibratedC"),
        ('<EnumEntry Name="Range"', '<EnumEntry Name="Confidence"', "no component Range, so no depth.*images=rgb"),
    ],
    ids=["unit", "mode", "component"],
)
def test_what_is_no_distance_is_refused(
    producer: Path, description: Path, tmp_path: Path, was: str, now: str, says: str
) -> None:
    text = description.read_text()
    assert was in text
    changed = tmp_path / "changed.xml"
    changed.write_text(text.replace(was, now))
    camera = described(producer, changed)
    with pytest.raises(CameraError, match=says):
        camera.open()


@pytest.mark.parametrize("query", ["trigger=encoder", "images=xyz", "features=Gain", "exposure_us=0"])
def test_wrong_options_are_refused(query: str) -> None:
    with pytest.raises(ConfigError, match="is not valid"):
        camera_from_uri(f"genicam://1?{query}")
