"""Freed memory, given back to the system: glibc would keep it for later, and other processes want it now.

Elsewhere than on glibc both functions do next to nothing.
"""

import ctypes
import gc
import sys
from typing import Any

_M_MMAP_THRESHOLD = -3  # malloc.h
LARGE = 1 << 20  # bytes


def give_back() -> None:
    """Collect what nobody refers to, and return what is free. A fraction of a second."""
    gc.collect()
    if trim := _libc("malloc_trim"):
        trim(0)


def return_large_blocks() -> None:
    """From now on in this process, a block of a megabyte and more goes back as soon as it is freed.

    glibc begins so, and raises the limit to 32 MB as blocks are freed; then what one tensor leaves is kept for the
    next, in pieces that seldom fit. A night takes half a gigabyte less and 2 % more time; with a limit of 256 kB it
    would take twice the time (docs/log.md). The model server would be 40 % slower: its steps are short.
    """
    if set_option := _libc("mallopt"):
        set_option(_M_MMAP_THRESHOLD, LARGE)


def _libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
