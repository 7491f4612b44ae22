"""tools/check_layers.py finds every kind of upward reference, and nothing in a tree that keeps the order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "check_layers.py"


def check(root: Path, files: dict[str, str]) -> tuple[int, str]:
    """Writes `files` (path -> text) below `root` and runs the checker there: its exit status and output."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, str(SCRIPT), str(root)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


CPP = {
    "csrc/base/error.h": "#pragma once\n#include <string>\n",
    "csrc/io/reader.h": '#include "base/error.h"\n',
    "csrc/policy/lru.h": '#include "base/error.h"\n',
    "csrc/store/catalog.h": '#include "io/reader.h"\n',
    "csrc/kernels/cpu/isa.cpp": '#include "kernels/cpu/body.inl"\n',
    "csrc/kernels/cpu/body.inl": '  #  include "base/error.h"\n',
}
PYTHON = {
    "python/moestro/__init__.py": "from moestro.llm import LLM\n",
    "python/moestro/errors.py": "",
    "python/moestro/config.py": "from .errors import UsageError\n",
    "python/moestro/kv/blocks.py": "from moestro import _core, errors\nfrom moestro.kv import pool\n",
    "python/moestro/models/decoder.py": "from ..kv.blocks import Block\n\n\ndef f():\n    import torch\n",
    "python/moestro/llm.py": "import numpy\nimport moestro.models.decoder\n",
}


def test_ordered_tree_is_clean(tmp_path: Path) -> None:
    status, output = check(tmp_path, CPP | PYTHON)
    assert (status, output) == (0, "check_layers: 0 violation(s)\n")


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("csrc/base/bad.h", '#include "io/reader.h"\n', 'csrc/base/bad.h:1: #include "io/reader.h": io is above base'),
        ("csrc/io/bad.cpp", '\n#include "policy/lru.h"\n', "csrc/io/bad.cpp:2: "),
        ("csrc/io/bad.cpp", '#include "policy/lru.h"\n', "policy is a neighbour of io"),
        ("csrc/kernels/cpu/bad.inl", '  # include "store/catalog.h"\n', "store is above kernels"),
        ("csrc/io/bad.h", '#include "reader.h"\n', "includes are written from csrc/"),
        ("csrc/novel/bad.h", '#include "base/error.h"\n', "novel is in no layer"),
        ("python/moestro/errors.py", "from moestro.config import X\n", "config is above errors"),
        ("python/moestro/kv/bad.py", "from ..models import decoder\n", "models is above kv"),
        ("python/moestro/kv/bad.py", "from moestro import llm\n", "llm is above kv"),
        ("python/moestro/kv/bad.py", "def f():\n    from moestro.llm import LLM\n", "bad.py:2: import moestro.llm"),
        ("python/moestro/cli/bad.py", "import moestro.server.app\n", "server is a neighbour of cli"),
        ("python/moestro/cli/bad.py", "import moestro\n", "not the package"),
        ("python/moestro/novel.py", "import moestro.errors\n", "novel is in no layer"),
        ("python/moestro/llm.py", "import torch.nn\n", "import it inside the function"),
        ("python/moestro/llm.py", "try:\n    from torch import nn\nexcept ImportError:\n    pass\n", "llm.py:2"),
        ("python/moestro/plan/bad.py", "def f():\n    import torch\n", "plan does without torch"),
    ],
)
def test_violation_is_named(tmp_path: Path, path: str, text: str, complaint: str) -> None:
    status, output = check(tmp_path, CPP | PYTHON | {path: text})
    assert status == 1
    assert complaint in output
    assert "check_layers: 1 violation(s)" in output


def test_types_alone_may_name_heavy_packages(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import torch\n"
    status, _ = check(tmp_path, {"python/moestro/llm.py": text})
    assert status == 0
