"""tools/check_isa_exports.py accepts an object that exports its table alone and names anything more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "check_isa_exports.py"
COMPILER = shutil.which("c++")
pytestmark = pytest.mark.skipif(
    COMPILER is None or shutil.which("nm") is None, reason="needs c++ and nm: apt-get install g++ binutils"
)

TABLE = "static float twice(float x) { return x + x; }\nextern const auto table = &twice;\n"


def check(folder: Path, source: str) -> tuple[int, str]:
    """Compiles `source` as a kernel object in `folder` and runs the checker on the folder: exit status and output."""
    (folder / "isa_scalar.cpp").write_text(source, encoding="utf-8")
    command = [str(COMPILER), "-std=c++20", "-O2", "-fPIC", "-c", "isa_scalar.cpp", "-o", "isa_scalar.cpp.o"]
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_table_alone_passes(tmp_path: Path) -> None:
    assert check(tmp_path, TABLE) == (0, "check_isa_exports: 1 object(s), 0 complaint(s)\n")


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ("float surplus(float x) { return x; }\n", "defines 2: surplus(float), table"),
        ("[[gnu::noinline]] inline float shared(float x) { return x; }\nauto f = &shared;\n", "shared(float)"),
        ("template <class T> [[gnu::noinline]] T half(T x) { return x / 2; }\ntemplate float half(float);\n", "half<"),
        ("inline int counter = 3;\nstatic int* volatile keep = &counter;\n", "weak symbol"),
    ],
)
def test_a_surplus_symbol_is_named(tmp_path: Path, extra: str, complaint: str) -> None:
    status, output = check(tmp_path, TABLE + extra)
    assert status == 1
    assert complaint in output


def test_no_table_is_refused(tmp_path: Path) -> None:
    status, output = check(tmp_path, "static int nothing() { return 0; }\nstatic auto keep [[gnu::used]] = &nothing;\n")
    assert status == 1
    assert "defines 0" in output


def test_nothing_to_look_at_is_not_success(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "build first" in done.stdout
