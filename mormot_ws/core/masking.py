"""XOR masking of payloads (RFC 6455 §5.3), by the fastest way that this machine has.

Short payloads go through one ``int`` XOR, long ones through four strided ``bytes.translate`` calls,
both pure Python; the C function of the ``speedups`` extra replaces them when it is installed.
``MORMOT_WS_NO_SPEEDUPS=1`` in the environment keeps to pure Python, for measuring and for testing.
No frame, socket or thread belongs in here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from importlib.machinery import ExtensionFileLoader, PathFinder
from importlib.util import find_spec, module_from_spec

from ..logs import get_logger

_log = get_logger("mormot_ws.masking")

Buffer = bytes | bytearray | memoryview

#: below this many bytes one ``int`` XOR beats four ``translate`` calls (measured: 0.6 µs against
#: 0.9 µs at 125 bytes)
STRIDED_FROM = 640


@lru_cache(maxsize=256)
def _xor_table(value: int) -> bytes:
    return bytes(i ^ value for i in range(256))


def mask_bytes_python(data: Buffer, key: bytes) -> bytes:
    """Return *data* XORed with the 4 bytes of *key*, repeated. Twice gives the data back."""
    size = len(data)
    if size < STRIDED_FROM:
        pad = (key * ((size >> 2) + 1))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(
            size, "little"
        )
    masked = bytearray(data)
    for offset in range(4):
        masked[offset::4] = masked[offset::4].translate(_xor_table(key[offset]))
    return bytes(masked)


def _choose() -> tuple[Callable[[Buffer, bytes], bytes], bool]:
    if not os.environ.get("MORMOT_WS_NO_SPEEDUPS"):
        apply_mask = _c_function()
        if apply_mask is not None:
            return apply_mask, True
    return mask_bytes_python, False


def _c_function() -> Callable[[Buffer, bytes], bytes] | None:
    """Return the C function of the extra, None when it is not installed.

    The one module is loaded without the package around it: that takes 25 ms, which no program of
    ours should pay for one function.
    """
    package = find_spec("websockets")
    places = None if package is None else package.submodule_search_locations
    spec = PathFinder.find_spec("websockets.speedups", places) if places else None
    if spec is None or not isinstance(spec.loader, ExtensionFileLoader):
        return None
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        function: Callable[[Buffer, bytes], bytes] = module.apply_mask
    except (ImportError, AttributeError) as exc:
        _log.warning("websockets.speedups cannot be used, masking in Python: %s", exc)
        return None
    return function


#: ``mask_bytes(data, key) -> bytes``: the function in use; ``HAVE_SPEEDUPS`` tells whether it is
#: the C one
mask_bytes: Callable[[Buffer, bytes], bytes]
HAVE_SPEEDUPS: bool
mask_bytes, HAVE_SPEEDUPS = _choose()


class MaskSource:
    """A supply of unpredictable masking keys, drawn from the system's generator a batch at a time.

    A key of four zero bytes is never given out: native mORMot peers close the connection on it.
    Not thread-safe by itself: each process draws under its output lock.
    """

    __slots__ = ("_at", "_pool")
    _BATCH = 1024

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def next_key(self) -> bytes:
        """Return a fresh non-zero masking key of 4 bytes."""
        while True:
            at = self._at
            key = self._pool[at : at + 4]
            if not key:
                self._pool = os.urandom(self._BATCH)
                self._at = 0
                continue
            self._at = at + 4
            if key != b"\0\0\0\0":
                return key
