"""Writes recordings as Orbbec's own recorder does: ROS 1 bags whose topics and messages the SDK (MIT) defines."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag1 import Writer

from edge_ad.cameras.orbbec_devices import Bus, OrbbecDevice, load_sdk, sdk_context
from edge_ad.types import AnyArray, Intrinsics

HEIGHT_PX, WIDTH_PX, FPS = 120, 160, 30
INTRINSICS = Intrinsics(fx=144, fy=144, cx=80, cy=60, width_px=WIDTH_PX, height_px=HEIGHT_PX)
SERIAL = "BAG0001"
COLOR, DEPTH = 2, 3
"""The SDK's numbers of the two streams, sensors and frame types."""
FORMATS = {COLOR: 22, DEPTH: 8}
"""The SDK's numbers of RGB and Y16."""
FEMTO_BOLT = 0x2BC5, 0x066B
START_NS = 1_000_000_000
ANY_MD5 = "0123456789abcdef0123456789abcdef"
TYPES = {
    "sensor_msgs/msg/Image": "060021388200f6f0f447d0fcd9c64743",
    "custom_msg/msg/OBDeviceInfo": "afef5328bb4abebd1a309e1ea8b26b3a",
    "custom_msg/msg/OBStreamProfileInfo": ANY_MD5,
    "custom_msg/msg/OBProperty": ANY_MD5,
}


def make_images(number: int) -> tuple[AnyArray, AnyArray]:
    """Noise that only capture ``number`` has: depth uint16 (H, W) in mm, colour uint8 (H, W, 3)."""
    random = np.random.default_rng(number)
    depth = random.integers(300, 4000, (HEIGHT_PX, WIDTH_PX), dtype=np.uint16)
    return depth, random.integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)


def write_bag(path: Path, captures: int, *, baseline_mm: float = 0.0, skip_color: frozenset[int] = frozenset()) -> Path:
    """Records captures 1 … ``captures`` at 30 per second.

    Args:
        path: the file to write.
        captures: how many.
        baseline_mm: of colour from depth, along x.
        skip_color: captures that lost their colour image.
    """
    with Writer(path) as bag:
        connections = {}

        def write(topic: str, kind: str, stamp_ns: int, body: bytes) -> None:
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, msgdef="uint8 any", md5sum=TYPES[kind])
            header = struct.pack("<III", 0, *divmod(stamp_ns, 10**9)) + _text("")
            bag.write(connections[topic], stamp_ns, header + body)

        write("/cam/property", "custom_msg/msg/OBProperty", START_NS, _property(0, struct.pack("<d", 2.1)))
        write("/cam/deviceInfo", "custom_msg/msg/OBDeviceInfo", START_NS, _device_info())
        for stream in (COLOR, DEPTH):
            profile = _stream_profile(stream, baseline_mm)
            write(f"/cam/streamProfileType_{stream}", "custom_msg/msg/OBStreamProfileInfo", START_NS, profile)
        for number in range(1, captures + 1):
            stamp_ns = START_NS + number * 10**9 // FPS
            depth, color = make_images(number)
            for stream, image, encoding in ((DEPTH, depth, "mono16"), (COLOR, color, "rgb8")):
                if stream == DEPTH or number not in skip_color:
                    body = _image(image, encoding, number, stamp_ns // 1000)
                    write(f"/cam/sensor_{stream}/frameType_{stream}", "sensor_msgs/msg/Image", stamp_ns, body)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def _bytes(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _property(number: int, value: bytes) -> bytes:
    return struct.pack("<I", number) + _bytes(value) + struct.pack("<I", len(value))


def _device_info() -> bytes:
    head = b"".join(_text(name) for name in ("Femto Bolt", "Orbbec Femto Bolt", ""))
    middle = b"".join(_text(name) for name in ("uid", SERIAL, "1.2.3", "1", "2.0.0", "USB3.2"))
    return head + struct.pack("<HH", *FEMTO_BOLT) + middle + struct.pack("<HB", 0, 0) + _text("") + _text("")


def _stream_profile(stream: int, baseline_mm: float) -> bytes:
    camera = (INTRINSICS.fx, INTRINSICS.fy, INTRINSICS.cx, INTRINSICS.cy)
    return (
        struct.pack("<BB", stream, FORMATS[stream])
        + struct.pack("<9f", *np.eye(3).ravel())
        + struct.pack("<3f", baseline_mm, 0, 0)
        + struct.pack("<HHH", WIDTH_PX, HEIGHT_PX, FPS)
        + struct.pack("<4f", *camera)
        + struct.pack("<8f", *[0.0] * 8)
        + struct.pack("<B", 0)
    )


def _image(image: AnyArray, encoding: str, number: int, stamp_us: int) -> bytes:
    height, width = image.shape[:2]
    return (
        struct.pack("<II", height, width)
        + _text(encoding)
        + struct.pack("<BI", 0, image.nbytes // height)
        + _bytes(image.tobytes())
        + struct.pack("<fQQQQ", 1.0, number, stamp_us, stamp_us, stamp_us)
        + _bytes(b"")
        + struct.pack("<IB", 0, 8 * image.itemsize)
    )


class RecordedBus(Bus):
    """A camera as far as the SDK knows: a recording, which sends as a camera does."""

    def __init__(self, bag: Path, connection: str = "USB3.2") -> None:
        self.bag, self.attached = bag, [OrbbecDevice("Femto Bolt", SERIAL, connection)]

    def devices(self) -> list[OrbbecDevice]:
        return self.attached

    def open(self, serial: str) -> Any:
        assert serial == SERIAL
        sdk_context()  # as it is once cameras have been listed
        return load_sdk().PlaybackDevice(str(self.bag))
