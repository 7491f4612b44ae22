"""What the step loop needs of the model below it, as contracts that a test can fake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moestro.kv.blocks import BlockPool

if TYPE_CHECKING:
    from moestro.models.step import StepBatch


class StepDecoder(Protocol):
    """`moestro.models.decoder.Decoder`."""

    @property
    def max_rows(self) -> int: ...
    @property
    def max_logit_rows(self) -> int: ...
    def forward(self, batch: StepBatch) -> NDArray[np.float32]: ...


class MeasuredPool(BlockPool, Protocol):
    """`moestro._core.KvPool`."""

    @property
    def block_bytes(self) -> int: ...
    @property
    def blocks_in_use(self) -> int: ...
    @property
    def blocks_available(self) -> int: ...


class MeasuredLedger(Protocol):
    @property
    def budget(self) -> int: ...
    @property
    def peak(self) -> int: ...
    def entries(self) -> list[dict[str, Any]]: ...


class MeasuredRuntime(Protocol):
    """`moestro._core.Runtime`."""

    @property
    def ledger(self) -> MeasuredLedger: ...
    @property
    def virtual_time(self) -> bool: ...
    def counters(self) -> dict[str, int]: ...
    def residency(self) -> dict[str, int]: ...
    def schedule(self) -> str: ...
    def prefetch_counters(self) -> list[dict[str, int]]: ...
