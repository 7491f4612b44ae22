"""The same weights in every form that a peer runs, each made in the working folder when first needed, and kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench_models import packed_store, random_checkpoint

_HERE = Path(__file__).resolve().parent


class PeerModels:
    def __init__(self, shape_name: str, work: Path, threads: int) -> None:
        self._work, self._threads = work, threads
        self._checkpoint = random_checkpoint(shape_name, work)

    def checkpoint(self) -> Path:
        return self._checkpoint

    def packed(self, format: str) -> Path:
        """A moestro store; bf16 runs in place."""
        return self._checkpoint if format == "bf16" else packed_store(self._checkpoint, format, self._work)

    def gguf(self, format: str) -> Path:
        """Raises RuntimeError when a tool fails. Each runs in a process of its own: what it allocates goes with it."""
        target = self._work / f"{self._checkpoint.name}-{format}.gguf"
        if target.exists():
            return target
        if format == "BF16":
            self._tool("gguf_export.py", str(self._checkpoint), str(target))
        else:
            bf16 = self.gguf("BF16")
            self._tool("gguf_quantise.py", str(bf16), str(target), format, f"--threads={self._threads}")
        return target

    def _tool(self, script: str, *arguments: str) -> None:
        done = subprocess.run([sys.executable, str(_HERE / script), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{script} failed: {done.stderr.strip()[-400:]}")
