"""A random checkpoint like the benches', its norms moved away from 1 so that one left out shows, and its GGUF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_gguf import SHAPE, run_bench

from moestro.checkpoint.index import read_index
from moestro.demo.random_model import write_random_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bench") / "checkpoint"
    write_random_checkpoint(directory, SHAPE, lambda done, total: None)
    random = np.random.default_rng(7)
    for tensor in read_index(directory).tensors.values():
        if len(tensor.shape) == 1:
            values = random.uniform(0.5, 1.5, tensor.shape).astype(np.float32)
            file = np.memmap(tensor.file, "<u2", "r+", tensor.offset, tensor.shape)
            file[:] = values.view(np.uint32) >> 16
            file.flush()
    return directory


@pytest.fixture(scope="session")
def gguf_file(checkpoint: Path) -> Path:
    target = checkpoint.with_name("BF16.gguf")
    done = run_bench("gguf_export.py", str(checkpoint), str(target))
    assert done.returncode == 0, done.stderr
    return target
