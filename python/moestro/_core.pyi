"""The C++ core. Arrays are C-contiguous numpy arrays (anything with ``__dlpack__`` is accepted for inputs); float arrays are
float32. Errors are the classes of ``moestro.errors``. Calls that compute or wait release the GIL."""

from typing import Any, Sequence

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

__version__: str
FORMATS: tuple[str, ...]  # "f32", "bf16", "q8", "q4"
KV_TYPES: tuple[str, ...]  # "f32", "bf16", "f16"
POLICIES: tuple[str, ...]  # "lru"
READERS: tuple[str, ...]  # "io_uring", "threads"
KV_BLOCK: int  # 64

def isa_tables() -> list[dict[str, Any]]: ...  # [{"name", "usable": bool, "reason": str}], best last
def xxh64(data: Any) -> int: ...

# ---- quant ----
def matrix_bytes(format: str, scale: str, rows: int, cols: int) -> int: ...
def choose_scale_type(source: U8, dtype: str, rows: int, cols: int, format: str) -> str: ...
def pack_matrix(
    compute: Compute, source: U8, dtype: str, rows: int, cols: int, format: str, scale: str, out: U8
) -> None: ...  # source: raw bytes of a row-major tensor; out: matrix_bytes(...) long
def unpack_matrix(packed: U8, format: str, scale: str, rows: int, cols: int) -> F32: ...
def unpack_codes(packed: U8, format: str, scale: str, rows: int, cols: int) -> tuple[NDArray[np.int8], F32]: ...

class Matrix:
    """A packed weight [rows, cols] in memory the core (or a kept numpy array) owns."""

    @staticmethod
    def from_packed(packed: U8, format: str, scale: str, rows: int, cols: int, bias: F32 | None = None) -> Matrix: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

class Compute:
    def __init__(self, threads: int = 1, isa: str = "") -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def refused(self) -> list[str]: ...

# ---- ops: outputs are given, results are exact functions of the inputs (docs/numerics.md) ----
def linear(compute: Compute, x: F32, weights: Sequence[Matrix], outs: Sequence[F32]) -> None: ...
    # x [rows, K]; outs[i] [rows, N_i], last dimension contiguous (a column slice of a wider array is fine)
def gated_mlp(compute: Compute, x: F32, gate: Matrix, up: Matrix, down: Matrix, out: F32) -> None: ...
def rms_norm(compute: Compute, x: F32, weight: F32, eps: float, out: F32) -> None: ...  # over the last dimension
def add(compute: Compute, x: F32, y: F32) -> None: ...  # x += y
def route_softmax_topk(
    compute: Compute, logits: F32, top_k: int, normalise: bool
) -> tuple[I32, F32]: ...  # [rows, top_k] each
def rope_table(positions: I64, inv_freq: F32, attention_factor: float) -> tuple[F32, F32]: ...
    # inv_freq [half] or [rows, half] -> cos, sin [rows, half]
def rope(compute: Compute, x: F32, cos: F32, sin: F32) -> None: ...  # x [rows, heads, head_dim], in place
def widen(source: U8, dtype: str, count: int) -> F32: ...
def quantize_activations(compute: Compute, x: F32) -> tuple[NDArray[np.int8], F32]: ...  # codes, scales: for tests
def kv_append(compute: Compute, kv: KvPool, layer: int, k: F32, v: F32, positions: I64, blocks: I32) -> None: ...
    # k, v [rows, kv_heads, head_dim]; blocks [rows]: id of the block holding each position
def attention(
    compute: Compute,
    kv: KvPool,
    layer: int,
    q: F32,  # [rows, heads, head_dim]
    positions: I64,  # [rows]
    tables: I32,  # concatenated block ids; -1 for blocks wholly before the window
    table_begin: I64,  # [rows]
    scale: float,
    out: F32,
    window: int = 0,
    sinks: F32 | None = None,
) -> None: ...

class KvPool:
    def allocate(self) -> int: ...
    def share(self, block: int) -> None: ...
    def release(self, block: int) -> None: ...
    def references(self, block: int) -> int: ...
    def copy(self, source: int, destination: int) -> None: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def blocks_in_use(self) -> int: ...
    @property
    def blocks_available(self) -> int: ...

class Ledger:
    @property
    def budget(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def peak(self) -> int: ...
    @property
    def free(self) -> int: ...
    def take(self, name: str, nbytes: int) -> None: ...
    def give(self, name: str, nbytes: int) -> None: ...
    def entries(self) -> list[dict[str, Any]]: ...  # {"name", "bytes", "peak"}

class Ticket: ...

class Runtime:
    def __init__(
        self,
        *,
        threads: int,
        host_memory: int,
        isa: str = "",
        cache: str = "direct",  # "direct" | "buffered"
        reader: str = "auto",  # "auto" | "io_uring" | "threads"
        io_depth: int = 0,
        verify: str = "first",  # "first" | "always" | "never"
        policy: str = "lru",
        expert_slots: int | None = None,
        faults: str = "",
    ) -> None: ...
    @property
    def compute(self) -> Compute: ...
    @property
    def ledger(self) -> Ledger: ...
    def open_file(self, path: str) -> int: ...
    def load_matrix(
        self, name: str, file: int, offset: int, dtype: str, rows: int, cols: int, format: str, bias: F32 | None = None
    ) -> Matrix: ...
    def load_record(
        self,
        name: str,
        file: int,
        offset: int,
        nbytes: int,
        checksum: int,
        parts: Sequence[tuple[int, int, str, str, int]],  # rows, cols, format, scale, offset in the record
        biases: Sequence[F32 | None],
    ) -> list[Matrix]: ...
    def add_expert_layer_packed(
        self,
        layer: int,
        parts: Sequence[tuple[int, int, str, str, int]],  # gate, up, down
        record_bytes: int,
        files: I32,  # [experts]
        offsets: NDArray[np.uint64],
        checksums: NDArray[np.uint64],
    ) -> None: ...
    def add_expert_layer_inplace(
        self,
        layer: int,
        format: str,
        gate_up_down: Sequence[tuple[int, int, str]],  # rows, cols, source dtype of gate, up, down
        files: I32,  # [experts, 3]
        offsets: NDArray[np.uint64],  # [experts, 3]
    ) -> None: ...
    def set_experts(self) -> None: ...  # after the layers were added and the trunk loaded
    def set_kv(self, type: str, kv_heads: int, head_dim: int, layers: int) -> KvPool: ...
    def begin_step(self, rows: int, tentative: U8 | None = None) -> None: ...
    def submit_experts(self, layer: int, x: F32, ids: I32, weights: F32) -> Ticket: ...
    def wait(self, ticket: Ticket, out: F32) -> None: ...
    def end_step(self, accepted: U8 | None = None) -> None: ...
    def abort_step(self) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def residency(self) -> dict[str, int]: ...
    def info(self) -> dict[str, Any]: ...  # isa, threads, reader engine, depth, registered_bytes, file_mode, refused
    def check_integrity(self) -> None: ...
    def close(self) -> None: ...  # waits for reads in flight, frees everything; later calls raise UsageError

def measure_read_rate(path: str, block_bytes: int, depth: int, reader: str, cache: str, seconds: float) -> dict[str, Any]: ...
