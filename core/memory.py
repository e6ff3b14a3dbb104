"""Freed memory, given back to the system: glibc would keep it for later, and other processes want it now."""

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect what nobody refers to, and return what is free. A fraction of a second; elsewhere than on glibc it only
    collects."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
