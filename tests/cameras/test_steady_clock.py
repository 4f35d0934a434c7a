"""A frame's time of arrival: without what kept it waiting, whatever the sensor's clock does."""

from __future__ import annotations

import numpy as np

from edge_ad.cameras.steady_clock import SteadyClock

PERIOD_S = 1 / 30


def arrivals(sensor_s: list[float], received_s: list[float]) -> list[float]:
    clock = SteadyClock()
    return [
        clock.arrival_ns(sensor, round(1e9 * received)) / 1e9
        for sensor, received in zip(sensor_s, received_s, strict=True)
    ]


def test_frames_that_come_straight_arrive_when_they_are_received() -> None:
    sensor = [number * PERIOD_S for number in range(100)]
    received = [1000 + time + 0.02 for time in sensor]
    np.testing.assert_allclose(arrivals(sensor, received), received, atol=1e-6)


def test_a_frame_that_waited_is_as_old_as_it_is() -> None:
    sensor = [number * PERIOD_S for number in range(40)]
    received = [1000 + time + 0.02 for time in sensor]
    received[30:34] = [received[30] + 2.0 + number * 1e-4 for number in range(4)]
    straight = [1000 + time + 0.02 for time in sensor]
    np.testing.assert_allclose(arrivals(sensor, received)[:34], straight[:34], atol=1e-6)


def test_no_frame_arrives_after_it_was_received() -> None:
    random = np.random.default_rng(0)
    sensor = [number * PERIOD_S for number in range(3000)]
    received = [5 + time + abs(random.normal(0, 0.01)) for time in sensor]
    assert all(arrived <= got + 1e-9 for arrived, got in zip(arrivals(sensor, received), received, strict=True))


def test_a_sensor_whose_clock_runs_slow_or_fast_stays_true() -> None:
    for drift in (-100e-6, 100e-6):
        received = [number * PERIOD_S for number in range(60 * 30)]
        sensor = [time * (1 + drift) for time in received]
        late_s = np.subtract(received, arrivals(sensor, received))
        assert late_s.max() < 0.004


def test_a_sensor_that_starts_counting_anew_is_followed() -> None:
    sensor = [100 + number * PERIOD_S for number in range(50)] + [number * PERIOD_S for number in range(50)]
    received = [1000 + number * PERIOD_S for number in range(100)]
    np.testing.assert_allclose(arrivals(sensor, received), received, atol=1e-6)
    ahead = sensor[:50] + [900 + number * PERIOD_S for number in range(50)]
    np.testing.assert_allclose(arrivals(ahead, received), received, atol=1e-6)


def test_a_clock_that_stands_still_tells_nothing() -> None:
    received = [1000 + number * PERIOD_S for number in range(50)]
    np.testing.assert_allclose(arrivals([0.0] * 50, received), received, atol=1e-6)
