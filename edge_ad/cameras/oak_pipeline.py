"""What runs inside an OAK camera: colour, depth registered to it, and the node that pairs the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from edge_ad.cameras.oak_devices import find_device, list_devices
from edge_ad.cameras.realsense_options import StreamMode
from edge_ad.types import Intrinsics

STEREO_SIZE = (640, 400)
"""What depth is computed from; every model's stereo cameras have it."""


@dataclass(frozen=True, slots=True)
class OakLink:
    """A started pipeline.

    Attributes:
        name: model name of the camera.
        serial: its identifier.
        pipeline: the SDK's pipeline; started.
        groups: the SDK's queue of message groups ``rgb`` and ``depth``.
        device: the SDK's device; None for a pipeline without one.
        intrinsics: of both images.
        warnings: findings that the user should see.
        details: further facts.
    """

    name: str
    serial: str
    pipeline: Any
    groups: Any
    device: Any = None
    intrinsics: Intrinsics | None = None
    warnings: tuple[str, ...] = ()
    details: dict[str, str] = field(default_factory=dict)


Connect = Callable[[Any, str, StreamMode, bool], OakLink]
"""From SDK, identifier, mode, and whether an outside signal starts each capture, to a started pipeline."""


def paired_queue(sdk: Any, pipeline: Any, rgb: Any, depth: Any, fps: int, *, on_host: bool) -> Any:
    """A queue of message groups, each with the ``rgb`` and the ``depth`` of one capture.

    Args:
        sdk: the ``depthai`` module.
        pipeline: the SDK's pipeline.
        rgb: the node output of the colour images.
        depth: the node output of the depth images, registered to colour.
        fps: captures per second: images half a period apart are two captures.
        on_host: pairs here, not in the camera.
    """
    sync = pipeline.create(sdk.node.Sync)
    sync.setRunOnHost(on_host)
    sync.setSyncThreshold(timedelta(seconds=0.5 / fps))
    rgb.link(sync.inputs["rgb"])
    depth.link(sync.inputs["depth"])
    return sync.out.createOutputQueue(maxSize=4, blocking=False)


def connect(sdk: Any, serial: str, mode: StreamMode, triggered: bool) -> OakLink:
    """Opens a camera and starts its pipeline.

    Args:
        sdk: the ``depthai`` module.
        serial: identifier of the camera; empty takes the first one that is free.
        mode: size of the frames, and captures per second.
        triggered: a signal at the camera's sync input starts each capture.

    Raises:
        CameraError: there is no such camera, or it is in use.
        RuntimeError: the SDK failed.
    """
    # Asked first, as opening a camera that is not there takes 11 s.
    attached = list_devices()
    found = find_device(attached, serial)
    device = sdk.Device(sdk.DeviceInfo(found.serial))
    try:
        pipeline = sdk.Pipeline(device)
        groups = _build(sdk, pipeline, device, mode, triggered)
        intrinsics = intrinsics_of(sdk, device.readCalibration(), mode.width_px, mode.height_px)
        pipeline.start()
    except BaseException:
        device.close()
        raise
    warnings = []
    if not serial and len(attached) > 1:
        warnings.append(f"{len(attached)} cameras are attached; to be sure of this one write oak://{found.serial}")
    speed = str(device.getUsbSpeed().name)
    if speed in ("LOW", "FULL", "HIGH"):
        warnings.append("the link is USB 2: use a USB 3 port and cable for full size and rate")
    if triggered:
        warnings.append("not every OAK model starts colour and depth by one signal: check that both follow it")
    details = {"platform": device.getPlatformAsString(), "usb": speed}
    return OakLink(device.getDeviceName(), found.serial, pipeline, groups, device, intrinsics, tuple(warnings), details)


def _build(sdk: Any, pipeline: Any, device: Any, mode: StreamMode, triggered: bool) -> Any:
    """Colour without lens distortion, stereo depth registered to it, and the queue that pairs them."""
    sockets, size = sdk.CameraBoardSocket, (mode.width_px, mode.height_px)

    def camera(socket: Any) -> Any:
        node = pipeline.create(sdk.node.Camera).build(socket)
        if triggered:
            node.initialControl.setFrameSyncMode(sdk.CameraControl.FrameSyncMode.INPUT)
            node.initialControl.setExternalTrigger(1, 0)
        return node

    rgb = camera(sockets.CAM_A).requestOutput(
        size, sdk.ImgFrame.Type.RGB888i, fps=float(mode.fps), enableUndistortion=True
    )
    left, right = (
        camera(socket).requestOutput(STEREO_SIZE, fps=float(mode.fps)) for socket in (sockets.CAM_B, sockets.CAM_C)
    )
    stereo = pipeline.create(sdk.node.StereoDepth).build(left, right, sdk.node.StereoDepth.PresetMode.DEFAULT)
    if device.getPlatform() == sdk.Platform.RVC4:  # there a node of its own registers depth
        align = pipeline.create(sdk.node.ImageAlign)
        stereo.depth.link(align.input)
        rgb.link(align.inputAlignTo)
        depth = align.outputAligned
    else:
        rgb.link(stereo.inputAlignTo)
        depth = stereo.depth
    return paired_queue(sdk, pipeline, rgb, depth, mode.fps, on_host=False)


def intrinsics_of(sdk: Any, calibration: Any, width_px: int, height_px: int) -> Intrinsics:
    """The colour camera's intrinsics at a size.

    Args:
        sdk: the ``depthai`` module.
        calibration: the SDK's ``CalibrationHandler``.
        width_px: of the image.
        height_px: of the image.
    """
    (fx, _, cx), (_, fy, cy), _ = calibration.getCameraIntrinsics(sdk.CameraBoardSocket.CAM_A, width_px, height_px)
    return Intrinsics(fx, fy, cx, cy, width_px, height_px)
