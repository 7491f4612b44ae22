"""What a command shows on stderr as it works: sentences, and a bar where there is a terminal. stdout is for answers."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from moestro.units import format_bytes

if TYPE_CHECKING:
    from rich.progress import TaskID


class Screen:
    """A context manager; the bar is gone when it ends. quiet: no sentences (a program reads the output)."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def say(self, sentence: str) -> None:
        if not self._quiet:
            from rich.text import Text

            self._console.print(Text(sentence, style="dim"), soft_wrap=True)

    def bytes(self, stage: str, done: int, total: int) -> None:
        """Progress counted in bytes."""
        task = self._task(stage, total)
        speed = next((shown.speed for shown in self._progress.tasks if shown.id == task), None)
        rate = f", {format_bytes(int(speed))}/s" if speed else ""
        self._update(stage, done, total, f"{format_bytes(done)} of {format_bytes(total)}{rate}")

    def prompt(self, done: int, total: int) -> None:
        """Progress of reading a prompt, counted in tokens."""
        self._update("reading the prompt", done, total, f"{done} of {total} tokens")

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Takes the bar away for good. May be called again."""
        self._progress.stop()

    def _task(self, stage: str, total: int) -> TaskID:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, amount="")
        return self._tasks[stage]

    def _update(self, stage: str, done: int, total: int, amount: str) -> None:
        self._progress.update(self._task(stage, total), completed=done, total=total, amount=amount)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(stage))
            self._progress.refresh()  # or the next sentence would bring the finished bar back
