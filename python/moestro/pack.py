"""A Hugging Face checkpoint to a packed store: planned first, resumable after a kill, published by one rename."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moestro import _core
from moestro.checkpoint.disk_space import require_space
from moestro.checkpoint.model_texts import model_texts
from moestro.checkpoint.pack_formats import MatrixClass, PackFormats
from moestro.checkpoint.pack_journal import JournalHead
from moestro.checkpoint.partial_store import PartialStore, open_partial
from moestro.checkpoint.record_packer import ScaleTooNarrow
from moestro.checkpoint.scale_scan import classes_with_wide_scales
from moestro.checkpoint.store_format import MANIFEST_FILE, is_store, manifest_text
from moestro.checkpoint.store_packer import Progress, StorePacker, finished_bytes, missing_bytes
from moestro.checkpoint.store_plan import StorePlan, plan_store
from moestro.checkpoint.verify import verify_interrupted
from moestro.errors import IntegrityError, StorageError, UsageError
from moestro.models.registry import Checkpoint, open_checkpoint
from moestro.models.spec_json import spec_to_json
from moestro.threads import default_threads
from moestro.units import format_bytes

Say = Callable[[str], None]


def pack_checkpoint(
    source: Path,
    target: Path,
    format: str,
    *,
    trunk_format: str | None = None,
    stripe: Sequence[Path] = (),
    threads: int | None = None,
    progress: Progress | None = None,
    say: Say = lambda _: None,
) -> Path:
    """Packs the checkpoint `source` into the new directory `target` and returns it.

    format, trunk_format: "f32", "bf16", "q8" or "q4", or "auto", which keeps the checkpoint's values. threads: None
    takes one per core. stripe: directories, on other drives, that share the weights with the target: a layer's experts
    are then read from all of them at once. They stay where they are, linked from the target. `progress` receives (bytes
    done, bytes in all), `say` what else is worth knowing. A run that was interrupted leaves TARGET.partial, from which
    the same call goes on.

    Raises UsageError (a target that is taken, an unknown format), CheckpointError, StorageError (no room, another pack
    at work, an interrupted pack of something else), IntegrityError (the checkpoint changed), NumericError.
    """
    source, target = source.resolve(), target.absolute()
    if is_store(source):
        raise UsageError(f"{source} is a packed store already: pack the original checkpoint")
    job = _Job(open_checkpoint(source), format, trunk_format or format, tuple(stripe))
    job.plan(())  # unknown formats are refused before anything is made
    compute = _core.Compute(default_threads() if threads is None else threads)
    with open_partial(target) as store:
        try:
            _pack(job, store, compute, progress or (lambda done, total: None), say)
        except IntegrityError:
            raise  # what was changed cannot be gone on with
        except StorageError as error:
            raise _resumable(error, store) from error
    return target


@dataclass(frozen=True)
class _Job:
    """What is packed, and how."""

    checkpoint: Checkpoint
    format: str
    trunk_format: str
    stripe: tuple[Path, ...]

    def plan(self, wide: tuple[MatrixClass, ...]) -> StorePlan:
        found = self.checkpoint
        choose = PackFormats(found.weights, trunk=self.trunk_format, experts=self.format, wide=frozenset(wide))
        stripes = 1 + len(self.stripe)
        return plan_store(
            spec_to_json(found.spec), found.config, found.weights, choose, _core.matrix_bytes, stripes=stripes
        )

    def head(self, plan: StorePlan, wide: tuple[MatrixClass, ...]) -> JournalHead:
        paths = sorted({tensor.path for _, tensor in self.checkpoint.weights.roles()})
        try:
            status = [(path, path.stat()) for path in paths]
        except OSError as error:
            raise StorageError(f"cannot read {error.filename}: {error.strerror}") from error
        sources = tuple((str(path), found.st_size, found.st_mtime_ns) for path, found in status)
        return JournalHead(_core.__version__, plan.fingerprint, sources, wide)


def _pack(job: _Job, store: PartialStore, compute: _core.Compute, progress: Progress, say: Say) -> None:
    plan, head = _begin(job, store, say)
    while not store.published:
        store.discard_other_weights({file.name for file in plan.files})
        for file in plan.files:
            if file.stripe:
                store.link(file.name, job.stripe[file.stripe - 1])
        for stripe, directory in enumerate((store.directory, *job.stripe)):
            require_space(directory, missing_bytes(plan, store.journal, stripe), f"packing into {store.target}")
        try:
            StorePacker(plan, store.directory, store.journal, compute, progress).run()
        except ScaleTooNarrow as narrow:
            plan, head = _widen(job, plan, store, narrow.found, say)
            continue
        _complete(job, plan, head, store)
        break
    store.publish()


def _begin(job: _Job, store: PartialStore, say: Say) -> tuple[StorePlan, JournalHead]:
    """The plan of the interrupted run, if there was one of the same thing."""
    before, finished = store.journal.head, store.journal.finished
    wide = before.wide if before is not None else ()
    plan = job.plan(wide)
    head = job.head(plan, wide)
    if before is None:
        store.journal.start(head)
    elif before != head:
        raise UsageError(_other_pack(store, before, head))
    elif finished:
        verify_interrupted(plan, store.directory, finished)
        done = format_bytes(finished_bytes(plan, store.journal))
        say(f"going on with the interrupted pack in {store.directory}: {done} are there")
    return plan, head


def _widen(
    job: _Job, plan: StorePlan, store: PartialStore, found: MatrixClass, say: Say
) -> tuple[StorePlan, JournalHead]:
    """The same store with f32 scales where they are needed; packing starts again."""
    before = store.journal.head
    known = set(before.wide) if before is not None else set()
    say(f"the scales of {_in_words(found)} need f32: looking for others, then packing starts again")
    needed = known | {found} | classes_with_wide_scales(plan, store.journal.finished)
    wide = tuple(sorted(needed, key=lambda entry: (entry[0] is None, entry[0] or 0, entry[1])))
    say(f"f32 scales: {', '.join(map(_in_words, wide))}")
    plan = job.plan(wide)
    head = job.head(plan, wide)
    store.journal.start(head)
    return plan, head


def _complete(job: _Job, plan: StorePlan, head: JournalHead, store: PartialStore) -> None:
    """Everything besides the weights."""
    source = job.checkpoint.directory
    if job.head(plan, head.wide) != head:
        raise IntegrityError(
            f"the weights in {source} changed while they were packed: delete {store.directory}, then pack again"
        )
    for name, content in model_texts(source):
        store.write(name, content)
    store.write(MANIFEST_FILE, manifest_text(plan.manifest(store.journal.finished)).encode())


def _other_pack(store: PartialStore, before: JournalHead, head: JournalHead) -> str:
    if store.published:
        return f"{store.target} already holds a packed model: choose another directory, or delete it first"
    if before.plan != head.plan:
        why = "of another checkpoint or in another format"
    elif before.sources != head.sources:
        why = "of weights that were changed or replaced since"
    else:
        why = f"by moestro {before.producer}, this is {head.producer}"
    return f"{store.directory} is an interrupted pack {why}: delete it, or choose another target"


def _resumable(error: StorageError, store: PartialStore) -> StorageError:
    return type(error)(
        f"{error}. Nothing was put into {store.target}; {store.directory} keeps what is finished: pack again with the"
        " same arguments to go on from there, or delete it"
    )


def _in_words(entry: MatrixClass) -> str:
    layer, part = entry
    return part if layer is None else f"layer {layer}'s {part}"
