"""Which images of a set from librealsense may go into one frame, and the frame's number.

What the SDK's pipeline does when a stream falls silent was measured: for some 8 frames it hands out
nothing, then it adds the last image of the silent stream to every new one of the other. A stream that
has sent nothing since the start keeps all sets back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

ALONE_AFTER_MS = 500.0
"""So long, by the camera's clock, must one stream be silent before images of the other go alone."""

STREAMS = ("depth", "color")


@dataclass(frozen=True, slots=True)
class Stamp:
    """When an image was taken: its number, and its time on a clock."""

    number: int
    time_ms: float
    clock: Any

    @classmethod
    def of(cls, image: Any) -> Stamp | None:
        """Of an image of the SDK; None where the set has none."""
        if not image:
            return None
        return cls(image.get_frame_number(), image.get_timestamp(), image.get_frame_timestamp_domain())


@dataclass(frozen=True, slots=True)
class Accepted:
    """What goes into a frame: the streams, the frame's number, and the time between the two images."""

    streams: Collection[str]
    sequence: int
    skew_ms: float = 0.0


class Pairing:
    """Judges the sets of one camera, one after the other.

    Args:
        max_skew_ms: two images further apart are two captures.
        alone: streams that may go alone.
        dropped: counts by cause: ``sequence_gap`` (depth images that never arrived), ``incomplete`` (a
            set without depth or without colour), ``mispaired`` (two captures in one set), ``repeated``
            (a depth image that was delivered before); ``without_depth`` and ``without_color`` count frames
            that were delivered with the other image alone.
    """

    def __init__(self, max_skew_ms: float, alone: Collection[str], dropped: Counter[str]) -> None:
        self._max_skew_ms, self._may_go_alone, self._dropped = max_skew_ms, alone, dropped
        self._sequence: int | None = None
        self.forget()

    def forget(self) -> None:
        """The stream begins anew: its numbers and times may do so too, the frames' numbers go on."""
        self._newest: dict[str, Stamp] = {}
        self._other_heard: dict[str, Stamp] = {}
        self._delivered: Stamp | None = None
        self._numbered_by: tuple[str, int] | None = None
        self._seen: int | None = None

    def accept(self, depth: Any, color: Any) -> Accepted | None:
        """What of a set may be delivered; None, and counted, where nothing may.

        Args:
            depth: the set's depth image.
            color: its colour image.
        """
        found = {"depth": Stamp.of(depth), "color": Stamp.of(color)}
        stamps = {name: stamp for name, stamp in found.items() if stamp is not None}
        fresh = [name for name in STREAMS if name in stamps and stamps[name] != self._newest.get(name)]
        self._newest.update(stamps)
        self._other_heard.update({name: stamp for name, stamp in stamps.items() if set(fresh) - {name}})
        if "depth" in stamps:
            self._count_gap(stamps["depth"].number)
        if len(stamps) < 2:
            return self._refused("incomplete")
        skew_ms = abs(stamps["depth"].time_ms - stamps["color"].time_ms)
        if stamps["depth"].clock != stamps["color"].clock or skew_ms > self._max_skew_ms:
            return self._alone(fresh, stamps)
        if stamps["depth"] == self._delivered:
            return self._refused("repeated")
        self._delivered = stamps["depth"]
        return Accepted(STREAMS, self._number("depth", stamps["depth"].number), skew_ms)

    def _alone(self, fresh: list[str], stamps: dict[str, Stamp]) -> Accepted | None:
        """The image of the only stream that still sends, once the other has been silent for long."""
        if len(fresh) != 1:
            return self._refused("mispaired")
        stream, stamp = fresh[0], stamps[fresh[0]]
        since = self._other_heard.setdefault(stream, stamp)
        if since.clock != stamp.clock or since.time_ms > stamp.time_ms:  # its clock was set
            self._other_heard[stream] = since = stamp
        if stream not in self._may_go_alone or stamp.time_ms - since.time_ms < ALONE_AFTER_MS:
            return self._refused("mispaired")
        self._dropped["without_color" if stream == "depth" else "without_depth"] += 1
        if stream == "depth":
            self._delivered = stamp
        else:
            self._seen = None  # how many depth images are missing is said by the count of frames without
        return Accepted((stream,), self._number(stream, stamp.number))

    def _refused(self, cause: str) -> Accepted | None:
        self._dropped[cause] += 1
        return None

    def _count_gap(self, number: int) -> None:
        if self._seen is not None and number > self._seen + 1:
            self._dropped["sequence_gap"] += number - self._seen - 1
        self._seen = number

    def _number(self, stream: str, number: int) -> int:
        """The next frame's number: the depth image's own, and always above the one before."""
        step = 1
        if self._numbered_by is not None and self._numbered_by[0] == stream:
            step = max(1, number - self._numbered_by[1])
        self._numbered_by = stream, number
        self._sequence = number if self._sequence is None else self._sequence + step
        return self._sequence
