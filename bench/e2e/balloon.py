"""Holds all memory but some, so that other processes live as on a smaller machine: where no cgroup limit can be set.

    python bench/e2e/balloon.py --leave 2GiB       # prints "ready", holds until its input ends

Anonymous memory, locked where the system allows it; without swap it stays put either way. If the kernel runs out of
memory, this process is its first victim.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moestro.units import format_bytes, parse_bytes

_STEP = 64 << 20


def available() -> int:
    """Bytes that processes could still get, page cache included."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def drop_caches() -> None:
    """A cold start. Raises OSError without the right to ask for one."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def inflate(leave: int) -> list[mmap.mmap]:
    Path("/proc/self/oom_score_adj").write_text("1000")
    libc = ctypes.CDLL(None, use_errno=True)
    held = []
    while (spare := available() - leave) >= mmap.PAGESIZE:
        size = min(_STEP, -(-spare // mmap.PAGESIZE) * mmap.PAGESIZE)
        piece = mmap.mmap(-1, size)
        piece.write(b"\1" * size)
        libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(piece)), ctypes.c_size_t(size))
        held.append(piece)
    return held


@contextmanager
def balloon(leave: int) -> Iterator[None]:
    """A balloon while the body runs. Raises RuntimeError when it could not be blown up."""
    command = [sys.executable, __file__, "--leave", str(leave)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"the balloon burst: less than {format_bytes(leave)} can be left")
            yield
            if process.poll() is not None:
                raise RuntimeError("the balloon burst: the machine ran out of memory")
        finally:
            process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leave", required=True, help="a size, such as 2GiB")
    held = inflate(parse_bytes(parser.parse_args().leave, "--leave"))
    print("ready", flush=True)
    sys.stdin.read()
    held.clear()


if __name__ == "__main__":
    main()
