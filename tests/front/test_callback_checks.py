"""Callbacks are refused where they are set, when they could never be called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from mormot_ws.front.callbacks import check_callback, only_kind


async def coroutine(peer: Any, message: Any) -> None:
    """Return a coroutine that nobody awaits."""


async def stream(peer: Any, message: Any) -> AsyncIterator[int]:
    """Return an asynchronous generator."""
    yield 1


def generator(peer: Any, message: Any) -> Iterator[int]:
    """Return a generator that nobody iterates."""
    yield 1


class AsyncCallable:
    """An object whose call is a coroutine."""

    async def __call__(self, peer: Any, message: Any) -> None:
        """Return a coroutine."""


class Texts:
    """An object with a method that takes text."""

    def __call__(self, peer: Any, message: str) -> None:
        """Take text."""

    def method(self, peer: Any, message: bytes) -> None:
        """Take bytes."""


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (coroutine, "with def, not async def"),
        (partial(coroutine, 1), "with def, not async def"),
        (stream, "with def, not async def"),
        (AsyncCallable(), "with def, not async def"),
        (generator, "has a yield"),
        ("chat", "on_message must be a function, not str"),
        (None, "on_message must be a function, not NoneType"),
        (lambda peer: None, r"called as on_message\(peer, message\)"),
        (lambda: None, r"called as on_message\(peer, message\)"),
        (lambda peer, message, more: None, r"called as on_message\(peer, message\)"),
    ],
)
def test_what_could_never_be_called_is_refused(function: Any, text: str) -> None:
    """In a sentence that says what is meant."""
    with pytest.raises(TypeError, match=text):
        check_callback(function, "on_message", "peer", "message")


@pytest.mark.parametrize(
    "function",
    [
        lambda peer, message: None,
        lambda *args: None,
        lambda peer, message, more=1: None,
        print,
        Texts(),
        Texts().method,
        partial(print, 1),
    ],
)
def test_what_can_be_called_is_taken(function: Any) -> None:
    """Whatever kind of function it is."""
    check_callback(function, "on_message", "peer", "message")


def test_an_annotation_may_say_that_only_text_is_taken() -> None:
    """Of functions, methods and objects; other annotations say nothing."""

    def both(peer: Any, message: str | bytes) -> None:
        """Take both."""

    def unknown(peer: Any, message: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Take what is not there at run time."""

    assert only_kind(Texts(), 1) is str
    assert only_kind(Texts().method, 1) is bytes
    assert only_kind(both, 1) is None
    assert only_kind(unknown, 1) is None
    assert only_kind(lambda peer, message: None, 1) is None
    assert only_kind(print, 1) is None
