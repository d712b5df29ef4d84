"""OutgoingFrames: order, copies, limits, what gives way when it is full, batches, and putting
back.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lines import each_line

from mormot_ws.core import outgoing
from mormot_ws.core.frames import (
    WebSocketFrame,
    WebSocketFramePayload,
    focBinary,
    focText,
    fopAlreadyCompressed,
)
from mormot_ws.core.outgoing import OutgoingFrames, QueuedFrame

QUICK = settings(deadline=None, max_examples=100)
EVERYTHING = 1 << 30


def queued(payload: bytes) -> QueuedFrame:
    return QueuedFrame(focBinary, payload, WebSocketFramePayload(0))


def filled(
    *payloads: bytes, max_frames: int = 0, max_bytes: int = 0, drop_oldest: bool = False
) -> OutgoingFrames:
    """Return a queue that was given *payloads*, in that order, whether it took them or not."""
    queue = OutgoingFrames(max_frames, max_bytes, drop_oldest)
    for payload in payloads:
        queue.push_queued(queued(payload))
    return queue


def payloads(frames: list[QueuedFrame]) -> list[bytes]:
    return [frame.payload for frame in frames]


class TestQueuedFrame:
    def test_it_turns_back_into_an_equal_frame(self) -> None:
        """Opcode, payload and flags survive the queue."""
        frame = WebSocketFrame(focText, b"x", fopAlreadyCompressed)
        assert QueuedFrame(frame.opcode, frame.payload, frame.content).frame() == frame

    def test_each_frame_is_a_new_one(self) -> None:
        """Whoever changes the returned frame does not change the queued one."""
        kept = queued(b"x")
        kept.frame().payload = b"changed"
        assert kept.frame().payload == b"x"


class TestPush:
    def test_a_new_queue_is_empty(self) -> None:
        """Nothing waits, nothing was lost."""
        queue = OutgoingFrames()
        assert (len(queue), queue.count, queue.bytes, queue.lost) == (0, 0, 0, 0)

    def test_it_counts_frames_and_payload_bytes(self) -> None:
        """``count``, ``len`` and ``bytes`` follow each push."""
        queue = filled(b"abc", b"", b"de")
        assert (len(queue), queue.count, queue.bytes) == (3, 3, 5)

    def test_frames_leave_in_their_order(self) -> None:
        """First in, first out."""
        assert payloads(filled(b"1", b"2", b"3").take(EVERYTHING)) == [b"1", b"2", b"3"]

    def test_a_frame_is_copied(self) -> None:
        """The caller may change his frame at once after the push."""
        queue = OutgoingFrames()
        frame = WebSocketFrame(focText, b"before", fopAlreadyCompressed)
        assert queue.push(frame) is True
        frame.opcode, frame.payload, frame.content = focBinary, b"after", WebSocketFramePayload(0)
        assert queue.take(EVERYTHING)[0].frame() == WebSocketFrame(
            focText, b"before", fopAlreadyCompressed
        )

    def test_a_queued_frame_is_kept_itself(self) -> None:
        """A broadcast's shared encoding travels through the queue untouched."""
        shared = QueuedFrame(focText, b"x", WebSocketFramePayload(0), b"\x81\x01x")
        queue = OutgoingFrames()
        queue.push_queued(shared)
        assert queue.take(EVERYTHING)[0] is shared


class TestLimits:
    def test_without_limits_it_takes_any_number(self) -> None:
        """0 means no limit, for both."""
        queue = OutgoingFrames()
        assert all(queue.push_queued(queued(b"x" * 100)) for _ in range(5000))

    def test_the_number_of_frames_is_limited(self) -> None:
        """At ``max_frames`` the next one is refused, and nothing else changes."""
        queue = filled(b"1", b"2", max_frames=2)
        assert queue.push_queued(queued(b"3")) is False
        assert (queue.count, queue.bytes, queue.lost) == (2, 2, 1)
        assert payloads(queue.take(EVERYTHING)) == [b"1", b"2"]

    def test_the_limit_itself_may_be_reached_in_bytes(self) -> None:
        """``max_bytes`` of payload may wait, not one more."""
        queue = filled(b"abcd", max_bytes=6)
        assert queue.push_queued(queued(b"ef")) is True
        assert queue.push_queued(queued(b"g")) is False
        assert queue.bytes == 6

    def test_push_tells_that_the_queue_is_full(self) -> None:
        """The public method has the same answer as the internal one."""
        assert filled(b"1", max_frames=1).push(WebSocketFrame(focText, b"2")) is False

    def test_an_empty_queue_takes_one_frame_of_any_size(self) -> None:
        """Otherwise a frame above the limit could never be sent."""
        queue = OutgoingFrames(max_bytes=4)
        assert queue.push_queued(queued(b"much too long")) is True
        assert queue.push_queued(queued(b"")) is False

    def test_a_refusal_leaves_room_for_a_smaller_frame(self) -> None:
        """The limit is judged frame by frame: after a refusal a smaller one still fits."""
        queue = filled(b"abc", b"too long", max_bytes=5)
        assert queue.push_queued(queued(b"de")) is True
        assert payloads(queue.take(EVERYTHING)) == [b"abc", b"de"]

    def test_taking_makes_room(self) -> None:
        """What has left no longer counts against either limit."""
        queue = filled(b"ab", b"cd", max_frames=2, max_bytes=4)
        queue.take(1)
        assert queue.push_queued(queued(b"ef")) is True

    def test_every_refusal_is_counted(self) -> None:
        """``lost`` is the number of frames that a full queue has refused."""
        assert filled(b"1", b"2", b"3", b"4", max_frames=1).lost == 3


class TestDropOldest:
    def test_the_oldest_frame_gives_way(self) -> None:
        """With ``drop_oldest`` the new frame is taken and the oldest is gone."""
        queue = filled(b"1", b"2", max_frames=2, drop_oldest=True)
        assert queue.push_queued(queued(b"3")) is True
        assert (queue.count, queue.bytes, queue.lost) == (2, 2, 1)
        assert payloads(queue.take(EVERYTHING)) == [b"2", b"3"]

    def test_only_as_many_give_way_as_the_bytes_need(self) -> None:
        """The youngest of the old frames stay when there is room for them."""
        queue = filled(b"aaa", b"bbb", b"ccc", max_bytes=9, drop_oldest=True)
        queue.push_queued(queued(b"ddddd"))
        assert payloads(queue.take(EVERYTHING)) == [b"ccc", b"ddddd"]

    def test_none_gives_way_beyond_what_fills_the_limit(self) -> None:
        """``max_bytes`` itself may be reached after the dropping too."""
        queue = filled(b"aaa", b"bbb", b"ccc", max_bytes=9, drop_oldest=True)
        queue.push_queued(queued(b"dddddd"))
        assert payloads(queue.take(EVERYTHING)) == [b"ccc", b"dddddd"]
        assert queue.lost == 2

    def test_a_frame_above_the_limit_empties_the_queue_and_is_taken(self) -> None:
        """One frame is always accepted, here after all others gave way."""
        queue = filled(b"1", b"2", max_bytes=4, drop_oldest=True)
        assert queue.push_queued(queued(b"much too long")) is True
        assert (queue.count, queue.bytes) == (1, 13)

    def test_every_dropped_frame_is_counted(self) -> None:
        """``lost`` is the number of frames that gave way, also when one push displaces several."""
        queue = filled(b"aaa", b"bbb", b"ccc", max_bytes=10, drop_oldest=True)
        queue.push_queued(queued(b"0123456789"))
        assert queue.lost == 3


class TestTake:
    def test_an_empty_queue_gives_nothing(self) -> None:
        """There is no frame to wait for in here."""
        assert OutgoingFrames().take(EVERYTHING) == []

    def test_a_batch_that_fits_empties_the_queue(self) -> None:
        """All frames leave together, and nothing waits any more."""
        queue = filled(b"12", b"34")
        assert payloads(queue.take(EVERYTHING)) == [b"12", b"34"]
        assert (queue.count, queue.bytes) == (0, 0)

    def test_a_batch_stops_at_its_size(self) -> None:
        """The frames that would exceed *max_bytes* stay, and are still counted."""
        queue = filled(*[b"x" * 100] * 10)
        taken = queue.take(350)
        assert 2 <= len(taken) <= 3
        assert (queue.count, queue.bytes) == (10 - len(taken), 1000 - 100 * len(taken))

    def test_one_frame_leaves_whatever_its_size(self) -> None:
        """A frame longer than a batch does not block the queue."""
        queue = filled(b"x" * 1000, b"y")
        assert payloads(queue.take(10)) == [b"x" * 1000]
        assert (queue.count, queue.bytes) == (1, 1)

    def test_many_empty_frames_do_not_make_an_endless_batch(self) -> None:
        """Headers count too: a batch of frames without payload is limited all the same."""
        assert 0 < len(filled(*[b""] * 1000).take(160)) <= 11

    @QUICK
    @given(sizes=st.lists(st.integers(0, 300), max_size=40), max_bytes=st.integers(0, 1000))
    def test_batches_together_are_the_queue(self, sizes: list[int], max_bytes: int) -> None:
        """Taking until it is empty gives every frame once, in order, whatever the size of a
        batch.
        """
        queue = filled(*[bytes([i]) * size for i, size in enumerate(sizes)])
        taken: list[QueuedFrame] = []
        while batch := queue.take(max_bytes):
            assert len(batch) == 1 or sum(len(frame.payload) for frame in batch) <= max_bytes
            taken += batch
            assert queue.bytes == sum(sizes[len(taken) :])
        assert payloads(taken) == [bytes([i]) * size for i, size in enumerate(sizes)]
        assert (queue.count, queue.bytes) == (0, 0)


class TestPutBack:
    def test_it_restores_the_order(self) -> None:
        """What could not be sent is first again, before what came later."""
        queue = filled(b"1", b"2")
        taken = queue.take(EVERYTHING)
        queue.push_queued(queued(b"3"))
        queue.put_back(taken)
        assert payloads(queue.take(EVERYTHING)) == [b"1", b"2", b"3"]

    def test_it_counts_the_bytes_again(self) -> None:
        """The limits see what was put back."""
        queue = filled(b"abc", b"de")
        queue.put_back(queue.take(EVERYTHING))
        assert (queue.count, queue.bytes) == (2, 5)

    def test_the_limits_do_not_apply(self) -> None:
        """A frame that was accepted once is not lost because others came in between."""
        queue = filled(b"1", b"2", max_frames=2, max_bytes=2)
        taken = queue.take(EVERYTHING)
        queue.push_queued(queued(b"3"))
        queue.put_back(taken)
        assert (queue.count, queue.bytes, queue.lost) == (3, 3, 0)

    def test_nothing_put_back_changes_nothing(self) -> None:
        """An empty list is as good as no call."""
        queue = filled(b"1")
        queue.put_back([])
        assert payloads(queue.take(EVERYTHING)) == [b"1"]


class TestClear:
    def test_it_removes_all_frames(self) -> None:
        """No frame and no byte waits any more."""
        queue = filled(b"1", b"2")
        queue.clear()
        assert (queue.count, queue.bytes, queue.take(EVERYTHING)) == (0, 0, [])

    @pytest.mark.parametrize("drop_oldest", [False, True])
    def test_a_cleared_queue_takes_frames_again(self, drop_oldest: bool) -> None:
        """The limits start from nothing."""
        queue = filled(b"1", b"2", max_frames=2, max_bytes=2, drop_oldest=drop_oldest)
        queue.clear()
        assert queue.push_queued(queued(b"3")) is True
        assert queue.lost == 0


@pytest.mark.parametrize("change", ["push", "take", "put_back"])
def test_a_full_queue_keeps_what_it_has_accepted_in_the_middle_of_a_change(change: str) -> None:
    """A finaliser pushes a frame at each line of the change: it is refused, or it is kept."""
    for line in each_line(outgoing):
        queue = OutgoingFrames(max_frames=1, max_bytes=0)
        queue.push(WebSocketFrame(focText, "first"))
        # as it is while an interruption of another change is not over
        queue._late.append(QueuedFrame.copy_of(WebSocketFrame(focText, "late")))
        accepted: list[bool] = []

        def push(queue: OutgoingFrames = queue, accepted: list[bool] = accepted) -> None:
            accepted.append(queue.push(WebSocketFrame(focText, "interrupting")))

        found: list[QueuedFrame] = []
        with line.interrupted_by(push):
            if change == "push":
                queue.push(WebSocketFrame(focText, "interrupted"))
            elif change == "take":
                found += queue.take(1_000)
            else:
                queue.put_back(queue.take(1_000))
        while queue:
            found += queue.take(1_000)
        texts = [queued.payload for queued in found]
        assert texts.count(b"interrupting") == sum(accepted), line.number
        assert {b"first", b"late"} <= set(texts)
