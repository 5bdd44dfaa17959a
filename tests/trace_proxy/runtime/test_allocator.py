"""Freed buffers are given back, also after a larger one was freed."""

import subprocess
import sys

SCRIPT = """
import os
from trace_proxy.runtime.allocator import return_large_buffers

def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

assert return_large_buffers()
bytes(30 * 2**20)  # freed: from now on glibc would take less than this from the heap
before = resident_mib()
large = [bytearray(b"x") * (4 * 2**20) for _ in range(8)]
kept = []
for each in range(0, 8, 2):
    kept.append(bytearray(b"x") * 2000)
    large[each] = None
assert resident_mib() - before < 20, resident_mib() - before
large.clear()
assert resident_mib() - before < 10, resident_mib() - before
"""


def test_freed_large_buffers_are_not_resident_any_more() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=30)
