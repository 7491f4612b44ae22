"""A pack that is killed, starved or disturbed: the next one ends with the same bytes, and nothing is half there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_models

from moestro.checkpoint import store_packer
from moestro.checkpoint.pack_journal import JOURNAL_FILE, JournalHead, PackJournal
from moestro.checkpoint.store_format import is_store
from moestro.checkpoint.verify import verify_store
from moestro.errors import IntegrityError, StorageError, UsageError
from moestro.pack import pack_checkpoint

Checkpoints = Callable[[str], Path]

MODEL = "qwen3_moe-fused"
COMMIT = 40_000  # several commits per file

# Packs argv[1] into argv[2]; SIGKILLs itself at the n-th call that changes the disk, or prints how many there are.
CHILD = """
import os, pathlib, signal, sys
from moestro.checkpoint import store_packer
from moestro.pack import pack_checkpoint
source, target, commit, last = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store_packer.COMMIT_BYTES = commit
calls = 0
def counted(function):
    def call(*arguments, **options):
        global calls
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return function(*arguments, **options)
    return call
for name in ("pwrite", "write", "fsync", "ftruncate", "rename", "unlink", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
for name in ("rename", "unlink", "mkdir"):
    setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
pack_checkpoint(source, target, "q8", threads=2)
print(calls)
"""


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed pack of MODEL as q8 makes."""
    return contents(pack_checkpoint(tiny_checkpoint(MODEL), tmp_path_factory.mktemp("whole") / "store", "q8"))


def run_child(source: Path, target: Path, last: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, str(source), str(target), str(COMMIT), str(last)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_killed_anywhere_then_resumed(
    tiny_checkpoint: Checkpoints, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_packer, "COMMIT_BYTES", COMMIT)
    source = tiny_checkpoint(MODEL)
    counting = run_child(source, tmp_path / "counting", -1)
    assert contents(tmp_path / "counting") == reference, counting.stderr
    calls = int(counting.stdout)
    assert calls > 60
    # The last calls publish the store; the first ones make the journal.
    points = [*range(4), *sorted(random.Random(0).sample(range(4, calls - 5), 8)), *range(calls - 5, calls)]
    kept = 0
    for point in points:
        target = tmp_path / f"at-{point}"
        killed = run_child(source, target, point)
        assert killed.returncode == -9, killed.stderr
        if target.exists():
            verify_store(target)
            assert contents(target).keys() >= reference.keys()
        said: list[str] = []
        progress: list[int] = []
        pack_checkpoint(
            source, target, "q8", say=said.append, progress=lambda done, _, seen=progress: seen.append(done)
        )
        assert contents(target) == reference, f"killed at call {point}"
        assert not partial(target).exists()
        kept += bool(said)
        assert not progress or (progress[0] > 0) == bool(said)
    assert kept >= 5, "most runs went on from where the killed one was"


def fails_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int, error: int) -> None:
    """os.<name> fails once, at the given call."""
    real, calls = getattr(os, name), iter(range(10**9))

    def failing(*arguments: object) -> object:
        if next(calls) == call:
            raise OSError(error, os.strerror(error))
        return real(*arguments)

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize(
    ("name", "call", "error", "named"),
    [
        ("pwrite", 9, errno.ENOSPC, r"cannot write .*trunk-00002\.safetensors.*No space left"),
        ("pwrite", 25, errno.EIO, r"cannot write .*experts-00001\.safetensors.*Input/output error"),
        ("fsync", 4, errno.EIO, r"cannot write .*Input/output error"),
        ("write", 2, errno.ENOSPC, r"cannot write .*pack\.journal.*No space left"),
        ("preadv", 12, errno.EIO, r"cannot read .*model.*\.safetensors.*Input/output error"),
    ],
)
def test_failing_disks_are_named_and_can_be_gone_on_from(
    name: str,
    call: int,
    error: int,
    named: str,
    tiny_checkpoint: Checkpoints,
    reference: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = tiny_checkpoint(MODEL), tmp_path / "store"
    monkeypatch.setattr(store_packer, "COMMIT_BYTES", COMMIT)
    with monkeypatch.context() as patched:
        fails_at(patched, name, call, error)
        with pytest.raises(StorageError, match=named) as raised:
            pack_checkpoint(source, target, "q8")
    assert re.search(r"Nothing was put into .*store; .*store\.partial keeps .* pack again", str(raised.value))
    assert not target.exists()
    assert contents(pack_checkpoint(source, target, "q8")) == reference


LIMITED = """
import pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from moestro.errors import StorageError
from moestro.pack import pack_checkpoint
try:
    pack_checkpoint(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "q8")
except StorageError as error:
    print(error)
"""


def test_a_real_limit_of_the_system(tiny_checkpoint: Checkpoints, reference: dict[str, bytes], tmp_path: Path) -> None:
    source, target = tiny_checkpoint(MODEL), tmp_path / "store"
    command = [sys.executable, "-c", LIMITED, str(source), str(target)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"cannot write .*safetensors .*File too large", child.stdout), child.stderr
    assert not target.exists() and partial(target).is_dir()
    assert contents(pack_checkpoint(source, target, "q8")) == reference


def test_short_reads_change_nothing(
    tiny_checkpoint: Checkpoints, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: real(file, [views[0][:777]], offset))
    assert contents(pack_checkpoint(tiny_checkpoint(MODEL), tmp_path / "store", "q8")) == reference


def test_a_shard_cut_short_meanwhile_is_named(
    tiny_checkpoint: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: 0)
    with pytest.raises(StorageError, match=r"safetensors ends early: expected \d+ bytes at \d+, found 0"):
        pack_checkpoint(tiny_checkpoint(MODEL), tmp_path / "store", "q8")
    assert not (tmp_path / "store").exists()


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(source of its own, target) after a pack that stopped half-way."""
    source, target = tiny_models.write(MODEL, tmp_path / "source"), tmp_path / "store"
    monkeypatch.setattr(store_packer, "COMMIT_BYTES", COMMIT)
    with monkeypatch.context() as patched:
        fails_at(patched, "pwrite", 25, errno.ENOSPC)
        with pytest.raises(StorageError):
            pack_checkpoint(source, target, "q8")
    with PackJournal(partial(target) / JOURNAL_FILE) as journal:
        assert len(journal.finished) > 5
    return source, target


def test_only_the_same_pack_goes_on(interrupted: tuple[Path, Path]) -> None:
    source, target = interrupted
    before = contents(partial(target))
    with pytest.raises(UsageError, match=r"store\.partial .* another checkpoint or in another format.*delete"):
        pack_checkpoint(source, target, "q4")
    with pytest.raises(UsageError, match="another format"):
        pack_checkpoint(source, target, "q8", trunk_format="bf16")
    shard = sorted(source.glob("*.safetensors"))[0]
    times = shard.stat()
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(UsageError, match=r"weights that were changed or replaced since.*delete"):
        pack_checkpoint(source, target, "q8")
    assert contents(partial(target)) == before, "nothing was touched"
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    verify_store(pack_checkpoint(source, target, "q8"))


def test_another_version_does_not_go_on(interrupted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = interrupted
    monkeypatch.setattr("moestro._core.__version__", "99.0")
    with pytest.raises(UsageError, match=r"by moestro .*, this is 99\.0: delete"):
        pack_checkpoint(source, target, "q8")


def test_what_is_finished_is_not_packed_again(
    interrupted: tuple[Path, Path], reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = interrupted
    with PackJournal(partial(target) / JOURNAL_FILE) as journal:
        finished = set(journal.finished)
    packed: list[str] = []
    real = store_packer.pack_record
    monkeypatch.setattr(
        store_packer,
        "pack_record",
        lambda compute, tensor, *rest: (packed.append(tensor.name), real(compute, tensor, *rest)),
    )
    assert contents(pack_checkpoint(source, target, "q8")) == reference
    assert packed and not finished & set(packed)


def ends(directory: Path, name: str) -> Iterator[tuple[Path, int]]:
    """The weight file that has the tensor `name`, and where the tensor ends in it."""
    for path in directory.glob("*.safetensors"):
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        entry = json.loads(content[8 : 8 + length]).get(name)
        if entry is not None:
            yield path, 8 + length + entry["data_offsets"][1]


@pytest.mark.parametrize("damage", ("flip", "cut", "remove"))
def test_a_damaged_interrupted_pack_is_refused(damage: str, interrupted: tuple[Path, Path]) -> None:
    source, target = interrupted
    with PackJournal(partial(target) / JOURNAL_FILE) as journal:
        last = list(journal.finished)[-1]
    path, end = next(ends(partial(target), last))
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: end - 1])
    else:
        content[end - 1] ^= 1
        path.write_bytes(content)
    with pytest.raises(StorageError, match=path.name):
        pack_checkpoint(source, target, "q8")
    assert not target.exists()


def test_weights_that_change_under_the_pack_are_not_published(tmp_path: Path) -> None:
    source, target = tiny_models.write(MODEL, tmp_path / "source"), tmp_path / "store"

    def touch(done: int, total: int) -> None:
        if 2 * done > total:
            os.utime(sorted(source.glob("*.safetensors"))[-1])

    with pytest.raises(IntegrityError, match=r"source changed while .* packed: delete .*store\.partial"):
        pack_checkpoint(source, target, "q8", progress=touch)
    assert not target.exists()
    with pytest.raises(UsageError, match="changed or replaced"):
        pack_checkpoint(source, target, "q8")


def test_ctrl_c_leaves_a_pack_to_go_on_with(
    tiny_checkpoint: Checkpoints, reference: dict[str, bytes], tmp_path: Path
) -> None:
    source, target = tiny_checkpoint(MODEL), tmp_path / "store"

    def stop(done: int, total: int) -> None:
        if 3 * done > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_checkpoint(source, target, "q8", progress=stop)
    assert not target.exists()
    assert contents(pack_checkpoint(source, target, "q8")) == reference


def test_two_packs_into_one_target(tiny_checkpoint: Checkpoints, reference: dict[str, bytes], tmp_path: Path) -> None:
    source, target = tiny_checkpoint(MODEL), tmp_path / "store"
    refused: list[StorageError] = []

    def second(done: int, total: int) -> None:
        if done == 0:
            with pytest.raises(StorageError, match="another pack into it is at work") as raised:
                pack_checkpoint(source, target, "q8")
            refused.append(raised.value)

    assert contents(pack_checkpoint(source, target, "q8", progress=second)) == reference
    assert len(refused) == 1


def test_a_lock_on_a_journal_that_is_gone_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner publishes between our opening and our locking: we must look again."""
    path, real = tmp_path / JOURNAL_FILE, fcntl.flock
    with PackJournal(path) as old:
        old.start(HEAD)

    def replaced_first(descriptor: int, how: int) -> None:
        monkeypatch.undo()
        path.unlink()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", replaced_first)
    with PackJournal(path) as journal:
        assert journal.head is None and path.is_file()


HEAD = JournalHead(
    "1.0", "abc", (("/models/x.safetensors", 17, 1_700_000_000_000_000_000),), ((3, "q"), (None, "head"))
)


def test_journal_drops_what_is_torn_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    with PackJournal(path) as journal:
        assert journal.head is None and journal.finished == {}
        journal.start(JournalHead("1.0", "old", (), ()))
        journal.add([("forgotten", 1)])
        journal.start(HEAD)
        journal.add([("a", 0), ("b", 2**64 - 1)])
        whole = path.read_bytes()
        journal.add([("c", 3)])
    longer = path.read_bytes()
    for end in range(len(whole), len(longer)):
        for tail in (b"", b"\0" * 9, b"\n", b"deadbeef {}\n"):
            path.write_bytes(longer[:end] + tail)
            with PackJournal(path) as journal:
                assert journal.head == HEAD
                assert journal.finished == {"a": 0, "b": 2**64 - 1} | (
                    {"c": 3} if longer[:end] + tail == longer else {}
                )
                journal.add([("d", 4)])
            with PackJournal(path) as journal:
                assert journal.finished["d"] == 4
    path.write_bytes(whole[:20])
    with PackJournal(path) as journal:
        assert journal.head is None


def test_nothing_is_left_of_a_wider_plan(tmp_path: Path) -> None:
    """A weight file that an earlier plan needed and this one does not is removed."""
    source, target = tiny_models.write("llama", tmp_path / "source"), tmp_path / "store"

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_checkpoint(source, target, "q8", progress=stop)
    (partial(target) / "experts-00009.safetensors").write_bytes(b"old")
    pack_checkpoint(source, target, "q8")
    assert is_store(target) and not (target / "experts-00009.safetensors").exists()
