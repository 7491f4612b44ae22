"""Lists what every CUDA kernel of a built library or object takes of a multiprocessor, and refuses spills.

    python tools/cuda_resources.py FILE... [--json]

Registers, stack frame, local and static shared memory, per kernel and architecture, as cuobjdump finds them. What a
kernel spills lies in its stack frame: one that has any is named, and the exit status is 1; 2 where there is nothing to
look at. Shared memory that a launch asks for (dynamic) is not in the file; from sm_80 on CUDA's own 1024 bytes of every
block are in the static figure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

_ARCHITECTURE = re.compile(r"^arch = (sm_\w+)")
_FUNCTION = re.compile(r"^\s*Function (\S+):$")
_NUMBER = re.compile(r"(\w+(?:\[\d+\])?):(\d+)")
_TITLES = ("kernel", "arch", "registers", "stack", "local", "shared")


class CannotLook(Exception):
    """There is no tool, or nothing to look at; the message says what to do."""


@dataclass(frozen=True)
class Kernel:
    name: str
    architecture: str
    registers: int  # per thread
    stack: int  # bytes per thread: spills, and arrays that are indexed
    local: int  # bytes per thread, besides
    shared: int  # bytes per block, static

    @property
    def spills(self) -> bool:
        return self.stack > 0 or self.local > 0


def parse(listing: str) -> Iterator[Kernel]:
    """Kernels of what `cuobjdump --dump-resource-usage` printed, under their mangled names."""
    architecture = name = ""
    for line in listing.splitlines():
        if found := _ARCHITECTURE.match(line):
            architecture, name = found[1], ""
        elif found := _FUNCTION.match(line):
            name = found[1]
        elif name and "REG:" in line:
            used = {key: int(value) for key, value in _NUMBER.findall(line)}
            yield Kernel(name, architecture, used["REG"], used["STACK"], used["LOCAL"], used["SHARED"])
            name = ""


def kernels_of(path: Path) -> list[Kernel]:
    """Raises CannotLook."""
    tool = find_tool("cuobjdump")
    if tool is None:
        raise CannotLook("cuobjdump was not found on PATH or under $CUDA_HOME/bin: it is part of the CUDA toolkit")
    if not path.is_file():
        raise CannotLook(f"{path} is not a file: build first, with CUDA")
    done = subprocess.run([tool, "--dump-resource-usage", str(path)], capture_output=True, text=True, check=False)
    found = list(parse(done.stdout))
    if not found:
        said = (done.stderr or done.stdout).strip()
        raise CannotLook(f"{path} has no GPU code: was it built with CUDA?" + (f" ({said})" if said else ""))
    names = demangled([kernel.name for kernel in found])
    return [replace(kernel, name=short(name)) for kernel, name in zip(found, names, strict=True)]


def find_tool(name: str) -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = shutil.which(name)
    return found or next((at for home in homes if home and (at := shutil.which(name, path=f"{home}/bin"))), None)


def demangled(names: Sequence[str]) -> list[str]:
    """As they are, where there is no tool for it."""
    tool = find_tool("cu++filt") or find_tool("c++filt")
    if tool is None:
        return list(names)
    done = subprocess.run([tool], input="\n".join(names) + "\n", capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def short(name: str) -> str:
    """Without result, parameters and namespaces: "integer_tiles<true>"."""
    plain = re.sub(r"\(anonymous namespace\)::|<unnamed>::|_GLOBAL__N__\w+::|\((?:bool|int|unsigned int)\)", "", name)
    depth = 0
    for at, letter in enumerate(plain):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            plain = plain[:at]
            break
    return re.sub(r"^void ", "", re.sub(r"\b(?:\w+::)+", "", plain))


def table(kernels: Sequence[Kernel]) -> Iterator[str]:
    rows = [_TITLES, *((k.name, k.architecture, *map(str, (k.registers, k.stack, k.local, k.shared))) for k in kernels)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a library, an object, an executable")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        kernels = [kernel for path in options.files for kernel in kernels_of(path)]
    except CannotLook as error:
        print(f"cuda_resources: {error}", file=sys.stderr)
        return 2
    kernels.sort(key=lambda kernel: (kernel.name, int("".join(filter(str.isdigit, kernel.architecture)))))
    if options.json:
        print(json.dumps([{**asdict(kernel), "spills": kernel.spills} for kernel in kernels], indent=1))
    else:
        print(*table(kernels), sep="\n")
    bad = [kernel for kernel in kernels if kernel.spills]
    for kernel in bad:
        frame = f"a stack frame of {kernel.stack} bytes and {kernel.local} of local memory"
        print(f"cuda_resources: {kernel.name} for {kernel.architecture} has {frame}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
