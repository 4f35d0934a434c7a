from __future__ import annotations

import threading
import time

import pytest

from edge_ad.runtime.latest import LatestSlot


def test_newest_item_wins_and_is_taken_once() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert [slot.put(item) for item in (1, 2, 3)] == [False, True, True]
    assert slot.get(0) == 3
    assert slot.get(0) is None
    assert slot.put(4) is False


def test_getting_from_an_empty_slot_waits_and_gives_up() -> None:
    started_s = time.monotonic()
    assert LatestSlot[int]().get(0.05) is None
    assert time.monotonic() - started_s >= 0.05


def test_a_waiting_consumer_is_woken() -> None:
    slot: LatestSlot[str] = LatestSlot()
    producer = threading.Timer(0.01, slot.put, ["frame"])
    producer.start()
    assert slot.get(30) == "frame"
    producer.join()


@pytest.mark.parametrize("consumers", [1, 3])
def test_every_item_is_either_taken_once_or_overwritten(consumers: int) -> None:
    slot: LatestSlot[int] = LatestSlot()
    taken: list[list[int]] = [[] for _ in range(consumers)]
    done = threading.Event()

    def consume(into: list[int]) -> None:
        while not done.is_set():
            item = slot.get(0.01)
            if item is not None:
                into.append(item)

    threads = [threading.Thread(target=consume, args=(into,)) for into in taken]
    for thread in threads:
        thread.start()
    overwritten = sum(slot.put(item) for item in range(1, 5001))
    done.set()
    for thread in threads:
        thread.join()
    remaining = slot.get(0)
    everything = sorted(item for into in taken for item in into) + ([] if remaining is None else [remaining])
    assert len(set(everything)) == len(everything)
    assert len(everything) + overwritten == 5000
    assert all(into == sorted(into) for into in taken)
