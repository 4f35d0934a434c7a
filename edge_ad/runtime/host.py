"""How the machine and this process are, as Linux tells it in files; what it does not tell is absent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PLAUSIBLE_C = (-40.0, 150.0)
"""Outside of this a sensor is not there or switched off: a Jetson's then reads -256."""


@dataclass(frozen=True, slots=True)
class HostFigures:
    """Figures of one moment.

    Attributes:
        temperature_c: by sensor, named as the kernel names it, such as ``gpu``, ``x86-pkg-temp``, ``nvme``.
        process: of this process alone: ``rss_bytes`` in memory, ``open_files``, ``threads``, and
            ``cpu_share``, the cores kept busy since the figures before.
    """

    temperature_c: Mapping[str, float] = field(default_factory=dict)
    process: Mapping[str, float] = field(default_factory=dict)


class Host:
    """Reads the figures, in well under a millisecond to a few; raises nothing.

    Args:
        root: where ``/sys`` and ``/proc`` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._sys, self._proc = root / "sys", root / "proc/self"
        self._cpu_s, self._wall_s = time.process_time(), time.monotonic()

    def figures(self) -> HostFigures:
        """What can be read now."""
        return HostFigures(self.temperature_c(), dict(self._process()))

    def temperature_c(self) -> dict[str, float]:
        """Degrees Celsius by sensor; of several of one name, the hottest."""
        hottest: dict[str, float] = {}
        for name, celsius in (*self._zones(), *self._chips()):
            # The kernel shows a thermal zone a second time as a chip, there with _ for -.
            name = name.replace("_", "-").removesuffix("-thermal")
            if PLAUSIBLE_C[0] < celsius < PLAUSIBLE_C[1]:
                hottest[name] = max(celsius, hottest.get(name, celsius))
        return hottest

    def _zones(self) -> Iterator[tuple[str, float]]:
        for zone in sorted((self._sys / "class/thermal").glob("thermal_zone*")):
            with suppress(OSError, ValueError):
                yield (zone / "type").read_text().strip(), int((zone / "temp").read_text()) / 1000

    def _chips(self) -> Iterator[tuple[str, float]]:
        for sensor in sorted((self._sys / "class/hwmon").glob("hwmon*/temp*_input")):
            with suppress(OSError, ValueError):
                yield (sensor.parent / "name").read_text().strip(), int(sensor.read_text()) / 1000

    def _process(self) -> Iterator[tuple[str, float]]:
        with suppress(OSError, ValueError, IndexError):
            pages = int((self._proc / "statm").read_text().split()[1])
            yield "rss_bytes", pages * os.sysconf("SC_PAGE_SIZE")
        with suppress(OSError):
            # Without the one that listing them opens.
            yield "open_files", sum(1 for _ in (self._proc / "fd").iterdir()) - 1
        with suppress(OSError):
            yield "threads", sum(1 for _ in (self._proc / "task").iterdir())
        cpu_s, wall_s = time.process_time(), time.monotonic()
        if wall_s > self._wall_s:
            yield "cpu_share", (cpu_s - self._cpu_s) / (wall_s - self._wall_s)
        self._cpu_s, self._wall_s = cpu_s, wall_s
