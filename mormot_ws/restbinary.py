"""The binary form of REST messages, of ``synopsebin`` and ``synopsebinary``, before compression and encryption.

A head, a separator, and fields with their lengths; several messages may travel in one jumbo frame. Pure: bytes in, values out;
no frame, socket or thread belongs in here.
"""

from __future__ import annotations

from collections.abc import Sequence

from .restmessages import RestAnswer, RestRequest


def encode_varuint(value: int) -> bytes:
    """Return *value* (0 to 2³²−1) in 7-bit groups, the low ones first. Raises ``ValueError`` outside that range."""
    raise NotImplementedError


def decode_varuint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, offset behind it) of the number at offset *at*; raise :class:`RestMessageError` when there is none."""
    raise NotImplementedError


def encode_binary(head: str, message: RestRequest | RestAnswer) -> bytes:
    """Return the plain frame of *message* under *head* (``r000001``, ``request``, ``answer``, …)."""
    raise NotImplementedError


def binary_head(plain: bytes) -> str:
    """Return the head of the *plain* frame, ``'frames'`` for a jumbo frame; '' when it has none. Cheap, reads the beginning only."""
    raise NotImplementedError


def decode_binary(plain: bytes) -> tuple[str, RestRequest | RestAnswer]:
    """Return (head, message) of a *plain* frame: a request when its head begins with ``r``, an answer when it begins with ``a``.

    Raises :class:`RestMessageError` for anything else. A jumbo frame goes through :func:`decode_jumbo` first.
    """
    raise NotImplementedError


def is_jumbo(plain: bytes) -> bool:
    """Tell whether *plain* is a jumbo frame."""
    raise NotImplementedError


def encode_jumbo(frames: Sequence[bytes]) -> bytes:
    """Return the jumbo frame of several plain *frames*. Raises ``ValueError`` for none."""
    raise NotImplementedError


def decode_jumbo(plain: bytes) -> list[bytes]:
    """Return the plain frames of a jumbo frame; raise :class:`RestMessageError` when it is truncated or none."""
    raise NotImplementedError
