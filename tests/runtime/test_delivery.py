"""Sinks that are slow, fail, or hang: each has its own queue, and none holds up the line or its end."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edge_ad.errors import OutputError
from edge_ad.runtime.delivery import CAPACITY, Delivery, Outlet
from edge_ad.runtime.stats import Statistics
from edge_ad.sinks.memory import MemorySink
from edge_ad.types import Decision, Frame, Inspection, Verdict
from tests.runtime.live_line import LONG_S, until


def make_inspection(number: int) -> Inspection:
    frame = Frame(rgb=np.zeros((1, 1, 3), np.uint8), sequence=number)
    return Inspection(frame, Verdict(Decision.OK, 1.0))


class Gate(MemorySink):
    """Lets one inspection after the other pass only while it is open."""

    def __init__(self, *, is_open: bool = False) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        if is_open:
            self.gate.set()

    def write(self, inspection: Inspection) -> None:
        self.entered.set()
        assert self.gate.wait(LONG_S)
        super().write(inspection)

    @property
    def numbers(self) -> list[int]:
        return [inspection.frame.sequence for inspection in self.inspections]


def test_all_sinks_get_all_inspections_in_order_and_are_closed() -> None:
    sinks = [Gate(is_open=True), Gate(is_open=True)]
    delivery = Delivery(sinks, Statistics())
    for number in range(CAPACITY):
        delivery.put(make_inspection(number))
    delivery.close()
    assert all(sink.numbers == list(range(CAPACITY)) and sink.closed for sink in sinks)


def test_a_full_queue_loses_the_oldest_and_counts_it() -> None:
    sink, statistics = Gate(), Statistics()
    outlet = Outlet(sink, statistics, capacity=3)
    outlet.put(make_inspection(0))
    assert sink.entered.wait(LONG_S)
    for number in range(1, 8):
        outlet.put(make_inspection(number))
    assert len(outlet) == 3
    assert statistics.summary()["dropped"]["undelivered to Gate"] == 4
    sink.gate.set()
    outlet.finish()
    outlet.join(LONG_S)
    assert sink.numbers == [0, 5, 6, 7] and sink.closed


def test_a_line_that_may_lose_nothing_waits_for_room() -> None:
    sink, statistics, stop = Gate(), Statistics(), threading.Event()
    outlet = Outlet(sink, statistics, stop, capacity=2)
    put: list[int] = []

    def work() -> None:
        for number in range(8):
            outlet.put(make_inspection(number))
            put.append(number)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: len(put) == 3)  # one in the sink's hands, two in the queue
    time.sleep(0.05)
    assert len(put) == 3
    sink.gate.set()
    thread.join(LONG_S)
    outlet.finish()
    outlet.join(LONG_S)
    assert sink.numbers == list(range(8))
    assert "undelivered to Gate" not in statistics.summary()["dropped"]


def test_waiting_for_room_ends_when_the_line_is_stopped() -> None:
    sink, statistics, stop = Gate(), Statistics(), threading.Event()
    outlet = Outlet(sink, statistics, stop, capacity=1)
    outlet.put(make_inspection(0))
    assert sink.entered.wait(LONG_S)
    outlet.put(make_inspection(1))
    threading.Timer(0.05, stop.set).start()
    outlet.put(make_inspection(2))
    assert statistics.summary()["dropped"]["undelivered to Gate"] == 1
    sink.gate.set()
    outlet.finish()
    outlet.join(LONG_S)
    assert sink.numbers == [0, 2]


def test_a_sink_that_hangs_at_the_end_is_left_behind_and_its_loss_counted() -> None:
    hanging, good, statistics = Gate(), MemorySink(), Statistics()
    delivery = Delivery([hanging, good], statistics)
    for number in range(5):
        delivery.put(make_inspection(number))
    assert hanging.entered.wait(LONG_S)
    started_s = time.monotonic()
    delivery.close(timeout_s=0.1)
    assert time.monotonic() - started_s < LONG_S / 2
    assert good.closed and len(good.inspections) == 5
    assert statistics.summary()["dropped"]["undelivered to Gate"] == 4
    assert delivery.depths()["Gate"] == 4
    hanging.gate.set()
    until(lambda: hanging.closed)


@pytest.mark.parametrize("error", [OutputError("the disk is full"), ZeroDivisionError()], ids=["known", "bug"])
def test_a_sink_that_fails_is_counted_and_written_to_again(error: Exception) -> None:
    class Failing(MemorySink):
        def write(self, inspection: Inspection) -> None:
            if inspection.frame.sequence % 2:
                raise error
            super().write(inspection)

    sink, statistics = Failing(), Statistics()
    delivery = Delivery([sink], statistics)
    for number in range(6):
        delivery.put(make_inspection(number))
    delivery.close()
    assert [inspection.frame.sequence for inspection in sink.inspections] == [0, 2, 4]
    assert statistics.summary()["sink_errors"] == {"Failing": 3}


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    for _ in range(5):
        Delivery([MemorySink(), MemorySink()], Statistics()).close()
    assert threading.active_count() == before
