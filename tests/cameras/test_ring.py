"""Frames in shared memory: whole, in order, and never overwritten while somebody looks at them."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.cameras import camera_from_uri
from edge_ad.cameras.image_memory import images_made_by, new_image, own_image, own_rgb
from edge_ad.cameras.outbox import Outbox
from edge_ad.cameras.ring import LENT, SPARES, Channel, Ring
from edge_ad.errors import DataError
from edge_ad.types import AnyArray, Frame, UInt8Array

RGB: UInt8Array = np.arange(105, dtype=np.uint8).reshape(5, 7, 3)
DEPTH: AnyArray = np.arange(35, dtype=np.uint16).reshape(5, 7)


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring.create(2, 1000)
    yield made
    made.close()


def sent(outbox: Outbox, **images: AnyArray) -> tuple[int, list[tuple[str, str, list[int], int]]]:
    put = outbox.put(images)
    assert put is not None
    return put[0], list(put[1])


def test_images_cross_over_as_they_are(ring: Ring) -> None:
    outbox = Outbox(ring)
    images: dict[str, AnyArray] = {
        "rgb": RGB,
        "depth": np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)[:, ::-1],
        "normals": np.zeros((0, 7, 3), np.float32),
    }
    for take in (ring.take, ring.read):
        taken = take(*sent(outbox, **images))
        for name, image in images.items():
            np.testing.assert_array_equal(taken[name], image)
            assert taken[name].dtype == image.dtype


def test_images_made_in_the_slot_are_not_copied(ring: Ring) -> None:
    outbox = Outbox(ring)
    with images_made_by(outbox.new_image):
        rgb, depth = own_rgb(RGB), own_image(DEPTH, np.uint16)
    slot, layout = sent(outbox, rgb=rgb, depth=depth)
    taken = ring.take(slot, layout)
    np.testing.assert_array_equal(taken["rgb"], RGB)
    rgb[2, 3] = 200  # both are the same memory
    assert (taken["rgb"][2, 3] == 200).all()
    np.testing.assert_array_equal(taken["depth"], DEPTH)


def test_what_was_left_unsent_does_not_take_the_next_frames_room(ring: Ring) -> None:
    """A driver that makes an image and then finds the capture incomplete, over and over."""
    outbox = Outbox(ring)
    for _ in range(10):
        outbox.forget()
        with images_made_by(outbox.new_image):
            own_image(np.zeros((15, 20, 3)), np.float64)  # 7200 bytes, which do not fit, and
            own_image(np.zeros(900, np.uint8), np.uint8)  # 900, which do
    outbox.forget()
    assert ring.take(*sent(outbox, rgb=RGB))["rgb"].tolist() == RGB.tolist()


def test_a_slot_is_not_written_while_the_driver_still_holds_an_image_in_it(ring: Ring) -> None:
    """One that waits for its colour: it is of the next frame, and must be what it was."""
    outbox = Outbox(ring)
    with images_made_by(outbox.new_image):
        waiting = own_image(DEPTH, np.uint16)
    slots = set()
    for number in range(5):
        outbox.forget()
        with images_made_by(outbox.new_image):
            rgb = own_image(np.full((5, 7, 3), number, np.uint8), np.uint8)
        slot, _ = sent(outbox, rgb=rgb)
        slots.add(slot)
        del rgb
        outbox.give_back(slot)
    assert len(slots) == 1
    np.testing.assert_array_equal(waiting, DEPTH)
    assert ring.take(*sent(outbox, depth=waiting))["depth"].tolist() == DEPTH.tolist()


def test_a_slot_is_not_written_while_the_driver_keeps_what_it_sent(ring: Ring) -> None:
    outbox = Outbox(ring)
    with images_made_by(outbox.new_image):
        kept = own_image(DEPTH, np.uint16)
    slot, _ = sent(outbox, depth=kept)
    outbox.give_back(slot)
    other, _ = sent(outbox, depth=DEPTH + 1)
    assert other != slot and outbox.put({"depth": DEPTH}) is None
    np.testing.assert_array_equal(kept, DEPTH)
    del kept
    assert sent(outbox, depth=DEPTH)[0] == slot


def test_without_a_free_slot_images_are_made_elsewhere_and_nothing_is_sent(ring: Ring) -> None:
    outbox = Outbox(ring)
    slots = [sent(outbox, depth=DEPTH)[0] for _ in range(2)]
    with images_made_by(outbox.new_image):
        depth = own_image(DEPTH, np.uint16)
    assert outbox.put({"depth": depth}) is None
    outbox.give_back(slots[0])
    assert sent(outbox, depth=depth)[0] == slots[0]


def test_images_that_came_to_nothing_do_not_crowd_out_the_frame(ring: Ring) -> None:
    """A driver that makes images of captures that turn out to be incomplete, all in one read."""
    outbox = Outbox(ring)
    for number in range(10):
        outbox.forget()
        with images_made_by(outbox.new_image):
            for _ in range(20):
                depth = own_image(DEPTH + number, np.uint16)
        taken = ring.take(*sent(outbox, rgb=RGB, depth=depth))
        assert taken["rgb"].tolist() == RGB.tolist() and taken["depth"].tolist() == (DEPTH + number).tolist()
        del taken, depth
        for slot in ring.freed():
            outbox.give_back(slot)


def test_a_driver_that_keeps_its_images_does_not_stop_its_own_frames() -> None:
    """One that smooths over time; or whose exceptions, in cycles, keep what it made alive."""
    ring = Ring.create(4, 1000)
    outbox = Outbox(ring)
    kept = []
    for number in range(30):
        outbox.forget()
        with images_made_by(outbox.new_image):
            kept.append(own_image(DEPTH + number, np.uint16))
        slot, layout = sent(outbox, depth=kept[-1])
        np.testing.assert_array_equal(ring.take(slot, layout)["depth"], kept[-1])
        for freed in ring.freed():
            outbox.give_back(freed)
    for number, depth in enumerate(kept):
        np.testing.assert_array_equal(depth, DEPTH + number)
    ring.close()


def test_only_the_thread_that_reads_makes_images_in_the_slot(ring: Ring) -> None:
    """SDKs call back in threads of their own."""
    made: list[AnyArray] = []
    outbox = Outbox(ring)
    with images_made_by(outbox.new_image):
        thread = threading.Thread(target=lambda: made.append(new_image((5, 7), np.uint16)))
        thread.start()
        thread.join()
        mine = new_image((5, 7), np.uint16)
    assert made[0].base is None and mine.base is not None and new_image((2,), np.uint8).base is None


def test_colours_are_converted_in_place(ring: Ring) -> None:
    outbox = Outbox(ring)
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    with images_made_by(outbox.new_image):
        for image, conversion in ((RGB[:, ::-1], cv2.COLOR_BGR2RGB), (grey, cv2.COLOR_GRAY2RGB)):
            rgb = own_rgb(image, conversion)
            np.testing.assert_array_equal(rgb, cv2.cvtColor(np.ascontiguousarray(image), conversion))
            assert rgb.base is not None  # in the slot


@pytest.mark.parametrize("uri", ["synthetic://?size=64&pool=2&fps=0", "synthetic://?size=64&pool=2&trigger=1"])
def test_a_drivers_frames_are_made_in_the_slot(uri: str) -> None:
    ring, camera = Ring.create(2), camera_from_uri(uri)
    outbox = Outbox(ring)
    camera.open()
    with images_made_by(outbox.new_image):
        if camera.caps.software_trigger:
            camera.trigger()
        frame = camera.read(5.0)
    assert isinstance(frame, Frame) and frame.rgb is not None and frame.depth is not None
    _, layout = sent(outbox, rgb=frame.rgb, depth=frame.depth)
    assert [offset for *_, offset in layout] == [0, frame.rgb.nbytes]
    camera.close()
    del frame
    ring.close()


def _hammer(descriptor: int, channel_descriptor: int, rounds: int) -> None:
    """Fills each slot that it gets with one value, as fast as it can, by turns in the slot itself and with a copy."""
    ring, channel = Ring(descriptor, 3, 1 << 20), Channel(socket.socket(fileno=channel_descriptor))
    outbox = Outbox(ring)
    for number in range(rounds):
        outbox.forget()
        while (message := channel.receive(0)) is not None:
            outbox.give_back(message["slot"])
        make = outbox.new_image if number % 2 else np.empty
        rgb: AnyArray = make((256, 256, 3), np.uint8)
        depth: AnyArray = make((256, 256), np.uint16)
        rgb[:], depth[:] = number % 251, number
        while (put := outbox.put({"rgb": rgb, "depth": depth})) is None:
            message = channel.receive(10.0)
            assert message is not None
            outbox.give_back(message["slot"])
        slot, layout = put
        channel.send("frame", slot=slot, layout=layout, number=number)
    with suppress(EOFError):  # the last slots come back before the other end is closed
        while True:
            channel.receive(10.0)


def test_no_frame_is_torn_however_fast_they_come() -> None:
    rounds = 10_000
    ring = Ring.create(3, 1 << 20)
    ours, theirs = Channel.pair()
    with theirs:
        writer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from tests.cameras.test_ring import _hammer; _hammer(*map(int, sys.argv[1:]))",
                *map(str, (ring.descriptor, theirs.fileno(), rounds)),
            ],
            pass_fds=(ring.descriptor, theirs.fileno()),
        )
    channel = Channel(ours)
    numbers = []
    for _ in range(rounds):
        message = channel.receive(30.0)
        assert message is not None
        images = ring.take(message["slot"], message["layout"])
        number = message["number"]
        assert (images["rgb"] == number % 251).all() and (images["depth"] == number).all()
        numbers.append(number)
        del images
        for slot in ring.freed():
            channel.send("free", slot=slot)
    assert numbers == list(range(rounds))
    channel.close()
    writer.wait(10)
    ring.close()


def test_a_slot_goes_back_when_no_view_of_its_images_is_in_use(ring: Ring) -> None:
    slot, layout = sent(Outbox(ring), rgb=RGB, depth=DEPTH)
    taken = ring.take(slot, layout)
    assert list(ring.freed()) == []
    row = taken["depth"][::2][1]
    del taken
    assert list(ring.freed()) == []
    np.testing.assert_array_equal(row, DEPTH[2])
    del row
    assert list(ring.freed()) == [slot] and list(ring.freed()) == []


def test_images_that_are_in_use_outlive_the_ring(ring: Ring) -> None:
    taken = ring.take(*sent(Outbox(ring), rgb=RGB))
    ring.close()
    np.testing.assert_array_equal(taken["rgb"], RGB)


def test_a_frame_that_is_too_large_is_refused_and_the_ring_goes_on(ring: Ring) -> None:
    outbox = Outbox(ring)
    for _ in range(3):
        with pytest.raises(DataError, match="20×20 px is too large to hand over"):
            outbox.put({"rgb": np.zeros((20, 20, 3), np.uint8)})
    np.testing.assert_array_equal(ring.read(*sent(outbox, rgb=RGB))["rgb"], RGB)
    ring.close()
    ring.close()


def _private_mb() -> float:
    """Memory of this process alone, with what the heap keeps."""
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Private_Dirty"].split()[0]) / 1024


def test_copies_of_frames_go_back_to_the_system() -> None:
    """Frames that wait for a slow sink: the heap would keep what it once grew to."""
    ring = Ring.create(LENT + 1)
    outbox = Outbox(ring)
    image: UInt8Array = np.arange(480 * 640 * 3, dtype=np.uint8).reshape(480, 640, 3)
    lent = [ring.take(*sent(outbox, rgb=image)) for _ in range(LENT)]
    before_mb = _private_mb()
    slot, layout = sent(outbox, rgb=image)
    waiting = [ring.take(slot, layout) for _ in range(30)]
    grown_mb = _private_mb() - before_mb
    fence = bytearray(1000)  # on the heap after them
    assert all((frame["rgb"][::99, ::99] == image[::99, ::99]).all() for frame in waiting)
    del waiting
    gc.collect()
    kept_mb = _private_mb() - before_mb
    assert grown_mb > 25 and kept_mb < SPARES + 2, (grown_mb, kept_mb, len(lent), len(fence))
    ring.close()


def test_the_memory_of_a_copy_is_used_again_when_no_view_of_it_is_left() -> None:
    ring = Ring.create(LENT + 1)
    outbox = Outbox(ring)
    lent = [ring.take(*sent(outbox, rgb=RGB)) for _ in range(LENT)]
    slot, layout = sent(outbox, rgb=RGB, depth=DEPTH)
    row = ring.take(slot, layout)["depth"][2]
    places = set()
    for number in range(20):
        ring.whole(slot)[: RGB.nbytes] = number
        rgb = ring.take(slot, layout)["rgb"]
        places.add(rgb.__array_interface__["data"][0])
        assert (rgb == number).all()
        del rgb
    np.testing.assert_array_equal(row, DEPTH[2])
    assert len(places) <= SPARES and len(lent) == LENT
    ring.close()
