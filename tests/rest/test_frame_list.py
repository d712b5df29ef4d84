"""WebSocketFrameList: the order, expiry and counts of frames that threads share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mormot_ws import WebSocketFrame, WebSocketFrameList, focPong, focText


class HeadProtocol:
    """Reads a frame's head as REST protocols do: what the payload begins with."""

    @staticmethod
    def frame_is(frame: WebSocketFrame, head: str) -> bool:
        return frame.payload.startswith(head.encode())


class TestWebSocketFrameList:
    protocol: Any = HeadProtocol()

    @staticmethod
    def _payloads(frames: WebSocketFrameList) -> list[bytes]:
        return [frame.payload for frame in frames.pop_all()]

    def _filled(self, *payloads: bytes, timeout_sec: int = 0, tix: int = 0) -> WebSocketFrameList:
        frames = WebSocketFrameList(timeout_sec)
        for payload in payloads:
            frames.push(WebSocketFrame(focText, payload), tix)
        return frames

    def test_it_counts_what_was_pushed(self) -> None:
        """``count`` and ``len`` agree."""
        frames = self._filled(b"1", b"2")
        assert (frames.count, len(frames)) == (2, 2)

    def test_pop_all_empties_it_oldest_first(self) -> None:
        """Frames come out in the order of their arrival, once."""
        frames = self._filled(b"1", b"2", b"3")
        assert self._payloads(frames) == [b"1", b"2", b"3"]
        assert len(frames) == 0

    def test_a_void_frame_has_an_opcode_only(self) -> None:
        """``push_void_frame`` appends an empty frame."""
        frames = WebSocketFrameList()
        frames.push_void_frame(focPong)
        assert frames.pop_all() == [WebSocketFrame(focPong)]

    def test_pop_returns_the_newest_match_only(self) -> None:
        """Of several frames with that head the last one is taken; all others stay, in order."""
        frames = self._filled(b"a1", b"b1", b"a2", b"b2")
        found = frames.pop(self.protocol, "a")
        assert found is not None
        assert found.payload == b"a2"
        assert self._payloads(frames) == [b"a1", b"b1", b"b2"]

    def test_pop_without_a_match_returns_none_and_keeps_all(self) -> None:
        """Nothing is lost by looking."""
        frames = self._filled(b"a", b"b")
        assert frames.pop(self.protocol, "c") is None
        assert self._payloads(frames) == [b"a", b"b"]

    def test_pop_drops_what_has_expired(self) -> None:
        """A frame is dropped once its time-out has passed."""
        frames = self._filled(b"old", timeout_sec=30, tix=100)
        frames.push(WebSocketFrame(focText, b"young"), 120)
        assert frames.pop(self.protocol, "none", tix=131) is None
        assert self._payloads(frames) == [b"young"]

    def test_a_frame_lives_for_its_whole_time_out(self) -> None:
        """At the very tick of its expiry it is still there."""
        frames = self._filled(b"x", timeout_sec=30, tix=100)
        frames.pop(self.protocol, "none", tix=130)
        assert len(frames) == 1

    def test_the_older_frames_expire_even_when_a_newer_one_matches(self) -> None:
        """Finding a frame does not keep the expired ones before it."""
        frames = self._filled(b"old", timeout_sec=30, tix=100)
        frames.push(WebSocketFrame(focText, b"wanted"), 131)
        assert frames.pop(self.protocol, "wanted", tix=140) == WebSocketFrame(focText, b"wanted")
        assert len(frames) == 0

    def test_without_a_time_out_nothing_expires(self) -> None:
        """A list made with 0 keeps its frames for ever."""
        frames = self._filled(b"x", timeout_sec=0, tix=100)
        frames.pop(self.protocol, "none", tix=10**9)
        assert len(frames) == 1

    def test_without_a_tick_at_the_push_a_frame_does_not_expire(self) -> None:
        """Tick 0 means unknown: there is nothing to count from."""
        frames = self._filled(b"x", timeout_sec=30, tix=0)
        frames.pop(self.protocol, "none", tix=10**9)
        assert len(frames) == 1

    def test_without_a_tick_at_the_pop_nothing_expires(self) -> None:
        """Tick 0 means unknown: nothing expires by this call."""
        frames = self._filled(b"x", timeout_sec=30, tix=100)
        frames.pop(self.protocol, "none")
        assert len(frames) == 1

    def test_a_negative_time_out_is_refused(self) -> None:
        """The error names the value."""
        with pytest.raises(ValueError, match="-1"):
            WebSocketFrameList(-1)

    def test_a_protocol_that_raises_loses_no_frame(self) -> None:
        """An exception in ``frame_is`` leaves the list, and its lock, as they were."""

        def frame_is(frame: WebSocketFrame, head: str) -> bool:
            raise RuntimeError("bad head")

        frames = self._filled(b"1", b"2")
        broken: Any = SimpleNamespace(frame_is=frame_is)
        with pytest.raises(RuntimeError):
            frames.pop(broken, "x")
        assert self._payloads(frames) == [b"1", b"2"]

    def test_answers_to_ignore_are_counted_up_and_down(self) -> None:
        """Each call returns the number after its change; 0 only asks."""
        frames = WebSocketFrameList()
        assert [frames.answer_to_ignore(incr) for incr in (0, 1, 1, -1, 0)] == [0, 1, 2, 1, 1]

    def test_answers_to_ignore_never_go_below_zero(self) -> None:
        """One answer too many does not swallow the next one."""
        frames = WebSocketFrameList()
        assert frames.answer_to_ignore(-1) == 0
        assert frames.answer_to_ignore(1) == 1

    @pytest.mark.parametrize("incr", [2, -2])
    def test_answers_to_ignore_change_by_one(self, incr: int) -> None:
        """Any other step is a mistake of the caller."""
        with pytest.raises(ValueError, match=str(incr)):
            WebSocketFrameList().answer_to_ignore(incr)

    def test_clear_forgets_everything(self) -> None:
        """Frames and answers to ignore are gone."""
        frames = self._filled(b"1")
        frames.answer_to_ignore(1)
        frames.clear()
        assert (len(frames), frames.answer_to_ignore()) == (0, 0)
