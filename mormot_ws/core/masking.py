"""XOR masking of payloads (RFC 6455 §5.3), in the fastest way available.

In pure Python, a short payload takes one ``int`` XOR and a long one four strided
``bytes.translate`` calls. The C function of the ``speedups`` extra replaces both if it is
installed; ``MORMOT_WS_NO_SPEEDUPS=1`` in the environment prevents that, for measuring and testing.
``process/encoder.py`` masks a connection's frames.
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

#: below this many bytes one ``int`` XOR is faster than four ``translate`` calls (at 125 bytes: 0.6
#: µs instead of 0.9 µs)
STRIDED_FROM = 640


@lru_cache(maxsize=256)
def _xor_table(value: int) -> bytes:
    return bytes(i ^ value for i in range(256))


def mask_bytes_python(data: Buffer, key: bytes) -> bytes:
    """Return *data* XORed with the 4 bytes of *key*, repeated; its own inverse."""
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
    """Return the C function of the extra, or None if it is not installed.

    Only its module is loaded. Importing the package around it would take 25 ms.
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


#: ``mask_bytes(data, key) -> bytes``: the function in use; ``HAVE_SPEEDUPS`` is True if it is the C
#: function
mask_bytes: Callable[[Buffer, bytes], bytes]
HAVE_SPEEDUPS: bool
mask_bytes, HAVE_SPEEDUPS = _choose()


class MaskSource:
    """A supply of unpredictable masking keys, drawn in batches from the system's generator.

    It never returns a key of four zero bytes, on which native mORMot peers close the connection.
    Not thread-safe: each connection draws under its output lock.
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
