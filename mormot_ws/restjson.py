"""The text form of REST messages, of ``synopsejson``: an object with one array, in which JSON content stands as it is.

It copies the native codec with its peculiarities: an empty body arrives as ``""``, content is inserted unchecked, what is not UTF-8 travels as
base64. Pure: bytes in, values out; no frame, socket or thread belongs in here.
"""

from __future__ import annotations

from .restmessages import RestAnswer, RestRequest


def encode_json(message: RestRequest | RestAnswer) -> bytes:
    """Return the payload of the text frame that carries *message*."""
    raise NotImplementedError


def json_head(payload: bytes) -> str:
    """Return the head of the message in *payload*, ``'request'`` or ``'answer'``; '' when it is neither. Cheap, reads the beginning only."""
    raise NotImplementedError


def decode_json(payload: bytes) -> RestRequest | RestAnswer:
    """Return the message in the text frame's *payload*; raise :class:`RestMessageError` when there is none."""
    raise NotImplementedError
