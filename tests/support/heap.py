"""What the heap of this process has in use. Nothing else is imported here: the processes that are
measured import it.
"""

from __future__ import annotations

import ctypes
import gc
import sys


class _Mallinfo(ctypes.Structure):
    """What glibc's ``mallinfo2`` returns, over all arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def heap_in_use() -> tuple[int, int]:
    """Return the bytes that malloc has given away (0 where it does not tell), and the blocks of
    Python's own allocator.
    """
    gc.collect()
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):  # another C library than glibc 2.33 and later
        return 0, sys.getallocatedblocks()
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return info.uordblks + info.hblkhd, sys.getallocatedblocks()
