"""What is freed goes back to the system; in a process of its own, since an allocator remembers."""

import subprocess
import sys

import pytest

_KEEPS = """
import psutil
from core import memory
{first}
blocks = []
for size in range(1_100_000, 30_000_000, 400_000):   # as tensors come and go: the small ones stay, and hold the heap
    large = bytearray(size)
    large[::4096] = b"x" * len(large[::4096])
    blocks.append(bytearray(100_000))
    del large
for size in range(30_000_000, 1_100_000, -400_000):
    large = [bytearray(size), bytearray(size)]
    blocks.append(bytearray(100_000))
del large
before = psutil.Process().memory_info().rss
memory.give_back()
print(before - psutil.Process().memory_info().rss)
"""


def left_over(first: str) -> int:
    """Bytes that were free and still held."""
    return int(subprocess.check_output([sys.executable, "-c", _KEEPS.format(first=first)], text=True))


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_large_blocks_go_back_at_once() -> None:
    assert left_over("pass") > 20_000_000, "else this test would say nothing"
    assert left_over("memory.return_large_blocks()") < 5_000_000
