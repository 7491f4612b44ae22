"""A GGUF in another format, by llama.cpp's own quantiser with its own choice per tensor: what its users run.

python bench/e2e/gguf_quantise.py IN.gguf OUT.gguf Q4_K_M
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from pathlib import Path

import llama_cpp

_FILE_TYPES = {
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}


def quantise(source: Path, target: Path, format: str, threads: int) -> None:
    """Writes `target`, whole or not at all. Raises RuntimeError when llama.cpp refuses."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = _FILE_TYPES[format]
    settings.nthread = threads
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(partial), ctypes.byref(settings))
        if status != 0:
            raise RuntimeError(f"llama.cpp could not quantise {source} to {format} (status {status})")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("format", choices=_FILE_TYPES)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    try:
        quantise(arguments.source, arguments.target, arguments.format, arguments.threads)
    except RuntimeError as error:
        sys.exit(f"gguf_quantise: {error}")


if __name__ == "__main__":
    main()
