"""What a camera is set to when it comes, comes back and when products change; and that a refusal is an alarm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edge_ad.alarms import Alarms
from edge_ad.cli.line import DriftSink
from edge_ad.cli.run import SETTINGS, _changed_over, _prepare
from edge_ad.errors import CameraError
from edge_ad.runtime.judging import ALARM, Inspector
from edge_ad.runtime.loop import Line
from tests.runtime.live_line import LiveCamera, predict


class Obedient(LiveCamera):
    """Has an exposure, and refuses it while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = False
        self.exposure_us = 0.0

    def set(self, **options: float | str) -> None:
        if self.refuses:
            raise CameraError("it is too warm", remedy="wait")
        self.exposure_us = float(options["exposure_us"])


def rig(**locked: float) -> Any:
    return SimpleNamespace(record=SimpleNamespace(camera=SimpleNamespace(locked=locked)))


def products(*refusals: Exception) -> Any:
    def set_options(camera: object) -> None:
        for refusal in refusals:
            raise refusal

    return SimpleNamespace(set_options=set_options)


def told(alarms: Alarms) -> str:
    return " ".join(alarm.text for alarm in alarms.active() if alarm.name == SETTINGS)


def test_a_camera_that_refuses_the_rigs_exposure_is_an_alarm_until_it_takes_it() -> None:
    camera, alarms = Obedient(), Alarms()
    camera.refuses = True
    _prepare(camera, products(), rig(exposure_us=800), alarms)
    assert "those of the rig: it is too warm" in told(alarms)
    camera.refuses = False
    _prepare(camera, products(), rig(exposure_us=800), alarms)
    assert camera.exposure_us == 800 and not alarms.active()


def test_a_camera_that_lacks_what_the_rig_was_measured_with_is_an_alarm() -> None:
    alarms = Alarms()
    _prepare(Obedient(), products(), rig(exposure_us=800, gain=2), alarms)
    assert "it has no gain" in told(alarms)


def test_a_recipes_setting_that_is_refused_is_an_alarm_and_raised() -> None:
    alarms = Alarms()
    with pytest.raises(CameraError, match="too warm"):
        _prepare(Obedient(), products(CameraError("it is too warm", remedy="wait")), None, alarms)
    assert "it is too warm" in told(alarms)
    _prepare(Obedient(), products(), None, alarms)
    assert not alarms.active()


def test_a_change_over_ends_what_the_model_before_said_of_the_sensors() -> None:
    line = Line(lambda recipe: Inspector.of(predict, 5.0))
    line.alarms.alert(ALARM, "parts are judged by colour alone")
    _changed_over(line, lambda: None, DriftSink({}, line.alarms), "lid")
    assert not line.alarms.active() and not line.camera_commands.empty()
