"""The C++ core. Arrays are C-contiguous numpy arrays, or anything with ``__dlpack__`` on host memory; float arrays are
float32. Errors are the classes of ``moestro.errors``. Calls that compute or wait release the GIL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

__version__: str
FORMATS: tuple[str, ...]  # "f32", "bf16", "q8", "q4"
KV_TYPES: tuple[str, ...]  # "f32", "bf16", "f16"
PLANNERS: tuple[str, ...]
POLICIES: tuple[str, ...]  # "lru", "lfu", "lrfu", "score", "shallow", "static", "workload"
PREDICTORS: tuple[str, ...]
READERS: tuple[str, ...]  # "io_uring", "threads"
KV_BLOCK: int  # 64
KV_SEGMENT: int  # 512

def kept_units(unit_bytes: Sequence[int], keep_bytes: int) -> list[bool]: ...
def isa_tables() -> list[dict[str, Any]]:
    """[{"name": str, "usable": bool, "reason": str}], best last; reason: why it is not the best one here, or empty."""

def xxh64(data: Any) -> int:
    """The checksum of records: XXH64, seed 0, of anything with contiguous bytes."""

# ---- quant: packed matrices (docs/numerics.md, "Formats") ----
# format: one of FORMATS. scale: "none" for f32 and bf16; "f16", "bf16" or "f32" for q8 and q4. dtype: of a source
# tensor, "f32", "bf16" or "f16". source: raw bytes of a row-major tensor [rows, cols]. packed, out: matrix_bytes(...)
# long.

def matrix_bytes(format: str, scale: str, rows: int, cols: int) -> int: ...
def choose_scale_type(source: U8, dtype: str, rows: int, cols: int, format: str) -> str: ...
def pack_matrix(
    compute: Compute, source: U8, dtype: str, rows: int, cols: int, format: str, scale: str, out: U8
) -> None: ...
def unpack_matrix(packed: U8, format: str, scale: str, rows: int, cols: int) -> F32: ...
def unpack_codes(packed: U8, format: str, scale: str, rows: int, cols: int) -> tuple[NDArray[np.int8], F32]:
    """codes [rows, cols] and scales [rows, ceil(cols / 32)] of a q8 or q4 matrix."""

class Matrix:
    """A packed weight [rows, cols] in memory that the core owns. Immutable; any thread may use it."""

    @staticmethod
    def from_packed(packed: U8, format: str, scale: str, rows: int, cols: int, bias: F32 | None = None) -> Matrix:
        """Copies `packed` and `bias` [rows]."""
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

class Compute:
    """Threads and an instruction set to compute with. Calls from several threads are served one after the other."""

    def __init__(self, threads: int = 1, isa: str = "", math: str = "exact") -> None:
        """threads: 1 to 1024, the caller included. isa: "" takes the best table; one that this CPU cannot run is an
        UnsupportedError. math: "exact", or "fast" (docs/numerics.md, "Fast math"), which falls back to exact and says
        so in `refused` where the CPU lacks AVX512_BF16."""
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def math(self) -> str:
        """The one it computes in."""
    @property
    def refused(self) -> list[str]:
        """The tables that are not active, each with its reason: "avx512: this CPU lacks avx512f"; and fast math, where
        it was asked for and cannot be had."""

# ---- ops: outputs are given, results are exact functions of the inputs (docs/numerics.md) ----
# Outputs share no memory with inputs unless said. NumericError: something that must be finite is not.

def linear(compute: Compute, x: F32, weights: Sequence[Matrix], outs: Sequence[F32]) -> None:
    """outs[i] = x weights[i]^T + bias. x [rows, K]; outs[i] [rows, N_i], a column slice of a wider array is fine."""

def gated_mlp(compute: Compute, x: F32, gate: Matrix, up: Matrix, down: Matrix, out: F32) -> None:
    """out = down(silu(gate x) * up x). x, out [rows, hidden]."""

def rms_norm(compute: Compute, x: F32, weight: F32, eps: float, out: F32) -> None:
    """Over the last dimension, of any number of them; out may be x."""

def add(compute: Compute, x: F32, y: F32) -> None:
    """x += y, of one shape."""

def route_softmax_topk(compute: Compute, logits: F32, top_k: int, normalise: bool) -> tuple[I32, F32]:
    """logits [rows, experts] -> ids, weights [rows, top_k], by descending weight."""

def rope_table(positions: I64, inv_freq: F32, attention_factor: float) -> tuple[F32, F32]:
    """inv_freq [half], or [rows, half] with one set per row -> cos, sin [rows, half]."""

def rope(compute: Compute, x: F32, cos: F32, sin: F32) -> None:
    """Rotates x [rows, heads, head_dim] in place. cos, sin [rows, head_dim / 2]."""

def widen(source: U8, dtype: str, count: int) -> F32:
    """`count` elements of `dtype` as float32."""

def quantize_activations(compute: Compute, x: F32) -> tuple[NDArray[np.int8], F32]:
    """x [rows, cols] -> codes [rows, groups * 32], scales [rows, groups], as integer formats read them."""

def kv_append(compute: Compute, kv: KvPool, layer: int, k: F32, v: F32, positions: I64, blocks: I32) -> None:
    """Writes k, v [rows, kv_heads, head_dim] at positions [rows]; blocks [rows]: ids of the blocks that hold them."""

def attention(
    compute: Compute,
    kv: KvPool,
    layer: int,
    q: F32,
    positions: I64,
    tables: I32,
    table_begin: I64,
    scale: float,
    out: F32,
    window: int = 0,
    sinks: F32 | None = None,
) -> None:
    """Row r is one query q[r] [heads, head_dim] at positions[r]; its sequence's block ids start at
    tables[table_begin[r]] and cover positions 0..positions[r]. Blocks wholly before the window may be -1.
    window: keys seen, 0 = all. sinks [heads] or None. out like q."""

# ---- bytes that calls take besides their arguments, for memory plans; math: the Compute's ----
def activation_bytes(rows: int, cols: int, integer: bool, math: str = "exact") -> int:
    """One linear call on [rows, cols]; integer: whether an integer format reads them."""

def mlp_scratch_bytes(rows: int, intermediate: int, integer: bool, math: str = "exact") -> int:
    """One gated_mlp call, besides activation_bytes of its input; integer: down's format."""

def attention_scratch_bytes(
    kv_heads: int, head_dim: int, heads: int, rows: int, max_len: int, threads: int, value_dim: int = 0
) -> int:
    """One attention call of up to `rows` rows at positions below `max_len`. value_dim: 0 is head_dim."""

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

class EmulatedMachine:
    """A machine with a device that needs none: what its lanes take, on a virtual clock."""

    def __init__(
        self,
        *,
        memory: int,  # bytes that the device has
        costs: Sequence[LaneCosts],  # by layer with experts; or one, for all
        layer: tuple[float, float] = (0.0, 0.0),  # ns of a layer beside its experts: fixed, and per row
        step: tuple[float, float] = (0.0, 0.0),  # of a step beside its layers
        failed_allocation: int = 0,  # for tests, counted from 1: this device allocation and all after it fail
        failed_copy: int = 0,
        no_pinning: bool = False,
    ) -> None: ...

class CudaMachine:
    """A CUDA device, and whether it computes the trunk beside experts."""

    def __init__(self, *, ordinal: int = 0, trunk: bool = False, work: int = 67108864) -> None:
        """work: bytes of device_memory for what launches need themselves; with less some go in parts or are refused."""

def cuda_info() -> dict[str, Any]:
    """What there is of CUDA: built (with it), driver and runtime (1000 * major + 10 * minor), devices (dicts of name,
    compute_capability, multiprocessors, integrated, bus, total and free bytes, missing), and missing: why none can be
    used, in a sentence; empty where one can. Never raises."""

class Runtime:
    def __init__(
        self,
        *,
        threads: int,
        host_memory: int,
        isa: str = "",
        math: str = "exact",  # "exact" | "fast", as for Compute
        cache: str = "direct",  # "direct" | "buffered"
        reader: str = "auto",  # "auto" | "io_uring" | "threads"
        io_depth: int = 0,
        io_read_bytes: int = 0,
        verify: str = "first",  # "first" | "always" | "never"
        policy: str = "lru",
        expert_slots: int | None = None,
        faults: str = "",
        trace_events: int = 0,
        frequencies: Sequence[float] = [],  # of policy "static": uses of every expert in a trace, layer after layer
        prefetch: str = "none",
        predictor: PredictorSettings | None = None,
        offsets: F32 | None = None,  # [layers with experts, distances, experts]: corrects what routers foresee
        costs: LaneCosts | None = None,
        record_rows: int = 0,
        record_ahead: int = 0,
        emulated: EmulatedMachine | None = None,
        device_memory: int = 0,  # bytes, hard; 0: experts stay off the device
        copies: str = "inclusive",  # "inclusive" | "exclusive"
        schedule: str = "hybrid",  # a planner, "device" or "auto"
        cuda: CudaMachine | None = None,  # device_memory is taken there at once
    ) -> None: ...
    @property
    def virtual_time(self) -> bool: ...
    @property
    def compute(self) -> Compute: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def device_ledger(self) -> Ledger: ...  # None without a device
    def open_file(self, path: str) -> int: ...
    def load_matrix(
        self,
        name: str,
        file: int,
        offset: int,
        dtype: str,
        rows: int,
        cols: int,
        format: str,
        bias: F32 | None = None,
        columns: tuple[int, int] | None = None,
        stack: tuple[int, int, int] | None = None,
    ) -> Matrix:
        """columns: (stride, step) where element (n, k) of the matrix is element k * stride + n * step from `offset` on.
        stack: (count, rows, bytes) of matrices so many bytes apart that are one, each padded with zero rows to rows /
        count of them.
        """
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
    def stream_record(
        self,
        name: str,
        file: int,
        offset: int,
        nbytes: int,
        checksum: int,
        parts: Sequence[tuple[int, int, str, str, int]],
        biases: Sequence[F32 | None],
    ) -> list[Matrix]: ...
    def stream_matrices(
        self,
        name: str,
        # file, offset, dtype, rows, cols, format, bias, columns, stack, as load_matrix takes them
        matrices: Sequence[
            tuple[int, int, str, int, int, str, F32 | None, tuple[int, int] | None, tuple[int, int, int] | None]
        ],
    ) -> list[Matrix]: ...
    def set_stream(self, *, window: int, batch: int, keep_bytes: int) -> None: ...
    def add_expert_layer_packed(
        self,
        layer: int,
        parts: Sequence[tuple[int, int, str, str, int]],  # gate, up, down
        record_bytes: int,
        files: I32,  # [experts]
        offsets: NDArray[np.uint64],
        checksums: NDArray[np.uint64],
        activation: str = "silu",  # "silu" | "gelu_tanh" | "clamped_swiglu"
        biases: tuple[F32, F32, F32] | None = None,  # of gate, up, down: [experts, rows]; copied
    ) -> None: ...
    def add_expert_layer_inplace(
        self,
        layer: int,
        format: str,
        # of gate, up, down: rows, cols, source dtype, and stride and step of columns (0, 1: row-major)
        gate_up_down: Sequence[tuple[int, int, str, int, int]],
        files: I32,  # [experts, 3]
        offsets: NDArray[np.uint64],  # [experts, 3]
        activation: str = "silu",
        biases: tuple[F32, F32, F32] | None = None,
    ) -> None: ...
    def set_experts(self) -> None: ...  # after the layers were added and the trunk loaded
    def set_kv(self, type: str, kv_heads: int, head_dim: int, layers: int, latent: int = 0) -> KvPool:
        """latent: above 0, keys are stored row by row and their first `latent` elements are the values."""
    def begin_step(
        self, rows: int, tentative: U8 | None = None, units: int | None = None, tokens: I32 | None = None
    ) -> None: ...
    def hold_unit(self, unit: int) -> None: ...
    def release_unit(self, unit: int) -> None: ...
    def submit_experts(self, layer: int, x: F32, ids: I32, weights: F32, logits: F32 | None = None) -> Ticket:
        """logits [rows, experts]: what the router thought of all, for policies that want to know."""
    def wait(self, ticket: Ticket, out: F32) -> None: ...
    def prefetch(self, layer: int, experts: Sequence[int]) -> int:
        """Starts reads of those that are absent, as far as there is room; -> how many."""
    def acquire(self, layer: int, expert: int) -> tuple[Matrix, Matrix, Matrix]:
        """Waits until the expert is in memory and keeps it there until `release`: gate, up, down.

        Afterwards using them is a UsageError. Raises StorageError or IntegrityError when it cannot be read, UsageError
        when every slot is held.
        """
    def release(self, layer: int, expert: int) -> None:
        """As often as it was acquired."""
    def end_step(self, accepted: U8 | None = None) -> None: ...
    def abort_step(self) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def residency(self) -> dict[str, int]: ...
    def prefetch_counters(self) -> list[dict[str, int]]:
        """Of each layer with experts, since the beginning; empty without a predictor."""
    def take_record(self) -> tuple[RoutingRecord, F32, int]:
        """What routers chose since the last call, offsets [layers, distances, experts], and how many rows had no room.

        Raises UsageError without record_rows.
        """
    def record_sizes(self) -> list[int]: ...  # bytes of an expert's record, by layer with experts
    def take_trace(self) -> tuple[list[dict[str, Any]], int]:
        """The latest `trace_events` events, oldest first, and how many older ones were lost; forgets them.

        lane: "cpu" | "ssd" | "stream"; activity; layer, item (expert or unit), -1 where there is none; count: rows or
        experts; nbytes; submitted, started, done: nanoseconds of a steady clock.
        """
    def info(self) -> dict[str, Any]: ...  # isa, math, threads, reader, depth, registered_bytes, file_mode, refused
    def schedule(self) -> str:
        """Who decides what the device computes, and why; empty without a device."""
    def reserve_rows(self, rows: int, top_k: int, hidden: int) -> None:
        """Takes memory of a device that computes the trunk for what experts of so many rows leave there."""
    def resize(self, host_memory: int | None = None, device_memory: int | None = None) -> None:
        """Other budgets from now on, between steps. Raises BudgetError, and nothing changed, where that cannot be."""
    def check_integrity(self) -> None: ...
    @staticmethod
    def scratch_bytes(
        rows: int,
        top_k: int,
        hidden: int,
        intermediate: int,
        integer: bool,
        layers: int = 0,
        math: str = "exact",
        ahead: int = 0,
    ) -> int: ...  # what expert calls hold for chunks of `rows`; to be taken from the ledger before set_experts
    @staticmethod
    def record_bytes(rows: int, top_k: int, layers: int, ahead: int = 0) -> int: ...  # of record_rows; also to be taken
    @staticmethod
    def staging_bytes() -> int: ...  # taken at construction
    def close(self) -> None: ...  # waits for reads in flight, frees everything; later calls raise UsageError

# ---- policies, and runs without their model ----

class LaneCosts:
    """What the lanes of a machine take for one expert, in nanoseconds."""

    def __init__(
        self,
        *,
        cpu: tuple[float, float] = (0.0, 0.0),  # fixed, per row
        cpu_start: float = 0.0,  # more for the first expert that the CPU computes in a layer
        device: tuple[float, float] | None = None,  # the same as cpu; None: there is no device
        link: float = 0.0,  # a record, host to device
        ssd: float = 0.0,  # a record, SSD to host
        ssd_start: float = 0.0,  # more for the first record that the SSD reads after a rest
    ) -> None: ...

class PredictorSettings:
    """What predictors are made of; each takes what it needs and says what is missing."""

    def __init__(
        self,
        *,
        top_k: Sequence[int] = [],  # by layer with experts
        tokens: I32 | None = None,  # [tokens] of a trace
        chosen: I32 | None = None,  # [layers, tokens, top_k] of it
        path: dict[str, Any] | None = None,  # arrays of `moestro.trace.path_weights`
    ) -> None: ...

def plan_layer(
    planner: str, costs: LaneCosts, work: Sequence[tuple[int, int, str]]
) -> tuple[list[tuple[int, str, float, float]], float, str]:
    """work: (expert, rows, "ssd" | "host" | "device" where its record is). -> operations (expert, lane, begin, end) in
    nanoseconds, when the last expert is computed, and the same as a table.
    """

class RoutingRecord:
    """What routers chose and thought, token by token: the arrays of `moestro.trace.routing`."""

    def __init__(
        self,
        *,
        layers: I32,
        experts: I32,
        step_rows: I32,
        step_bytes: I64,
        tokens: I32,
        accepted: U8,
        chosen: I32,
        best_ids: I32,
        best_scores: F32,
        ahead_ids: I32 | None = None,
        ahead_scores: F32 | None = None,
    ) -> None: ...
    @property
    def rows(self) -> int: ...
    def arrays(self) -> dict[str, Any]: ...

def replay(
    record: RoutingRecord,
    *,
    record_bytes: Sequence[int],  # by layer with experts, like costs
    costs: Sequence[LaneCosts],
    layer: tuple[float, float] = (0.0, 0.0),  # ns of a layer beside its experts: fixed, per row
    step: tuple[float, float] = (0.0, 0.0),  # ns of a step beside its layers: fixed, per row
    cache_bytes: int | None = None,  # of the fastest cache; None: as recorded, step by step
    max_slots: int | None = None,
    policy: str = "lru",
    frequencies: Sequence[float] = [],
    prefetch: str = "none",
    predictor: PredictorSettings | None = None,
    planner: str = "hybrid",  # where costs have a device
    first_step: int = 0,  # counted from there
    host_bytes: int | None = None,  # with a device; None: the host has all records from the start
    copies: str = "inclusive",  # with a device
) -> dict[str, Any]:
    """Does on a virtual clock what the recorded run would have done with this cache, policy, predictor and machine.

    -> hits, misses, joined (arrays by layer with experts), evictions, loads, nbytes, read_nbytes (from the SSD), steps,
    rows, time_ns, cpu_busy_ns, device_busy_ns, link_busy_ns, stall_ns, prefetch (as Runtime.prefetch_counters). Raises
    UsageError, BudgetError.
    """

def belady_misses(record: RoutingRecord, slots: Sequence[int], first_step: int = 0) -> list[int]:
    """The misses that no policy can avoid with so many slots, without prefetch, counted from a step on."""

# ---- layers: a decoder's halves, constants bound once, computing in one workspace ----
# Calls on a workspace come one after the other, whichever layer they go through. What a layer is given is kept by it.

class Workspace:
    """The arrays and scratch of a step. One thread at a time; a second one gets UsageError."""

    def __init__(self, *, max_rows: int, runtime: Runtime | None = None, **sizes: Any) -> None:
        """For steps of up to `max_rows` rows, computed where the runtime's `compute` does (None: the processor). sizes:
        hidden, heads, kv_heads, head_dim; experts, top_k (the most of any layer, 0 where there are none). And what only
        some models need: value_dim (else head_dim); rotary_halves, of every rotary embedding half of the dimensions it
        turns (else one, over the whole head); wide, narrow, by_head, shared, weighed, pre_gated, query_factors, which
        csrc/layers/workspace.h explains. Raises UsageError for others.
        """
    def begin(
        self,
        positions: I64,
        tables: I32,
        table_begin: I64,
        blocks: I32,
        rotary: Sequence[tuple[F32, float]],
        query_factors: F32 | None = None,
    ) -> None:
        """A step begins. Places as for `attention` and `kv_append`; rotary: of every rotary embedding, inv_freq as for
        `rope_table`, and its factor. All are copied."""
    def reserve(self, logits: int, blocks: int) -> None:
        """Takes a device's memory for so many logits and entries of block tables now; does nothing without one."""
    def trace_to(self, runtime: Runtime) -> None:
        """Calls on layers are recorded in that runtime's trace from now on."""
    @property
    def x(self) -> F32:
        """[rows, hidden]: the residual stream, a view; contents are undefined after `begin`. Where layers compute on a
        device it is what the step begins with."""
    def put_x(self) -> None:
        """`x` was written: brings it to where layers compute. Does nothing where that is here."""
    @property
    def ids(self) -> I32:
        """[rows, top_k]: the experts of the layer that routed last, best first, a view; top_k is 0 before any did."""
    @property
    def busy_ns(self) -> int:
        """Nanoseconds spent inside calls on this workspace so far."""
    @staticmethod
    def nbytes(*, max_rows: int, **sizes: Any) -> int:
        """Of the arrays, for the sizes of the constructor; kernels' scratch comes on top (see below)."""
    @staticmethod
    def nbytes_there(*, max_rows: int, blocks: int, **sizes: Any) -> int:
        """The same in a device's memory, tables of `blocks` KV blocks included."""
    @staticmethod
    def nbytes_beside(*, max_rows: int, **sizes: Any) -> int:
        """And in the host's beside them."""

# A norm is the weight of an RMS norm, or (weight, bias or None) of a layer norm; None is no norm.
Norm = F32 | tuple[F32, F32 | None] | None

class AttentionLayer:
    def __init__(
        self,
        compute: Compute,
        kv: KvPool,
        layer: int,
        *,
        norm: Norm,
        q: Matrix,
        k: Matrix,
        v: Matrix,
        o: Matrix,
        eps: float,
        scale: float,
        window: int = 0,
        q_norm: F32 | None = None,
        k_norm: F32 | None = None,
        rotary: int | None = 0,
        norm_after: Norm = None,
        residual: float = 1.0,
        gate: Matrix | None = None,
        whole_norm: bool = False,
        norm_last: bool = False,
        clip: float = 0.0,
        neighbours: bool = False,
        temperature: bool = False,
        softcap: float = 0.0,
        chunk: int = 0,
        sinks: F32 | None = None,
    ) -> None:
        """rotary: which of the workspace's embeddings; None: none. neighbours: it turns pairs of neighbours.
        whole_norm: q_norm and k_norm go over all heads together; norm_last: they come after the rotation. clip,
        softcap, chunk: 0 is none. temperature: queries are multiplied by the step's query_factors.
        """
    def run(self, work: Workspace) -> None:
        """work.x += residual * attention(norm(work.x)), storing the rows' keys and values."""

class LatentAttentionLayer:
    """Multi-head latent attention; the KV pool is one of latents."""

    def __init__(
        self,
        compute: Compute,
        kv: KvPool,
        layer: int,
        *,
        norm: Norm,
        q_down: Matrix | None,
        q_down_norm: F32 | None,
        q: Matrix,
        kv_down: Matrix,
        kv_down_norm: F32,
        k_up: Matrix,
        v_up: Matrix,
        o: Matrix,
        values: int,
        eps: float,
        latent_eps: float,
        scale: float,
        neighbours: bool = False,
        rotary: int = 0,
        norm_after: Norm = None,
        residual: float = 1.0,
    ) -> None:
        """k_up, v_up: one matrix per head, [latent, nope] and [values, latent], in a stack."""
    def run(self, work: Workspace) -> None: ...

class MlpLayer:
    def __init__(
        self,
        compute: Compute,
        layer: int,
        *,
        norm: Norm,
        eps: float,
        gate: Matrix,
        up: Matrix,
        down: Matrix,
        activation: str = "silu",
        norm_after: Norm = None,
        reads_last: bool = False,
        residual: float = 1.0,
    ) -> None:
        """reads_last: it reads what the half before it read."""
    def run(self, work: Workspace) -> None:
        """work.x += residual * mlp(norm(work.x))."""

class MoeLayer:
    def __init__(
        self,
        runtime: Runtime,
        layer: int,
        *,
        norm: Norm,
        eps: float,
        router: Matrix,
        top_k: int,
        normalise: bool,
        score: str = "softmax",
        correction: F32 | None = None,
        groups: int = 1,
        kept_groups: int = 1,
        group_best: int = 1,
        norm_eps: float = 0.0,
        norm_min: float = 0.0,
        scale: float = 1.0,
        jitter: float = 0.0,
        weigh_input: bool = False,
        pre_gated: bool = False,
        shared: tuple[Matrix, Matrix, Matrix] | None = None,
        shared_weight: Matrix | None = None,
        activation: str = "silu",
        average: bool = False,
        norm_after: Norm = None,
        reads_last: bool = False,
        residual: float = 1.0,
    ) -> None:
        """How experts are chosen and weighed: `moestro.models.spec.RouterSpec` explains. shared: gate, up and down of
        an expert for all rows; activation is its own, the others' is said where they are added.
        """
    def look_ahead(self, next: Sequence[MoeLayer]) -> None:
        """The next layers with experts, whose routers are asked about this layer's input where somebody foresees. A
        pre-gated one needs it: the layer before computes its logits."""
    def submit(self, work: Workspace) -> None:
        """Routes norm(work.x), submits it to the runtime as `submit_experts` does, and computes the shared expert."""
    def wait(self, work: Workspace) -> None:
        """work.x += what was submitted."""

class Head:
    def __init__(
        self,
        compute: Compute,
        *,
        norm: Norm,
        eps: float,
        slices: Sequence[Matrix],
        multiplier: float = 1.0,
        softcap: float = 0.0,
    ) -> None:
        """slices: consecutive rows of one [vocab, hidden]."""
    @property
    def vocab(self) -> int: ...
    def run(self, work: Workspace, rows: I64) -> F32:
        """logits [len(rows), vocab] of norm(work.x) in these rows, a new array."""

class Reader:
    """Reads files into arrays, many reads at a time. One thread at a time; arrays are kept until their read is over."""

    def __init__(self, engine: str = "auto", depth: int = 0, *, cache: str = "direct", read_bytes: int = 0) -> None:
        """engine: "io_uring", "threads" or "auto". depth: reads given to the system at once; 0: the engine's default.
        cache: "direct" bypasses the page cache where the file system can, "buffered" goes through it. read_bytes:
        longer reads are cut into such ones; 0: 4 MiB."""
    def submit(self, path: str, offset: int, out: U8, urgent: bool = False) -> int:
        """Begins to read `out.size` bytes at `offset` into out [nbytes]; -> the read's number.

        Bypassing the page cache, offset, length and address are multiples of `alignment(path)`; `page_array` makes
        such arrays. urgent: before all queued reads that are not.
        """
    def wait(self) -> list[int]:
        """Numbers of reads that are complete, at least one; [] when nothing is in flight.

        Raises StorageError naming file and place when one failed; the others come with the next call.
        """
    def alignment(self, path: str) -> int: ...
    def info(self) -> dict[str, Any]:
        """engine, depth, refused: list[str]."""
    @property
    def in_flight(self) -> int: ...

def page_array(nbytes: int) -> U8:
    """Zeros on whole pages, huge ones where the system grants them: disks read faster into these."""

def measure_read_rate(
    path: str,
    block_bytes: int,
    depth: int,
    reader: str,
    cache: str,
    seconds: float,
    offset: int = 0,
    read_bytes: int = 0,
) -> dict[str, Any]:
    """Reads an existing file once from `offset` on, for at most `seconds`, `depth` blocks in flight.

    offset: a multiple of 4096. read_bytes: longer blocks are read in such pieces; 0 is the reader's default. What the
    page cache holds there is dropped first.

    -> bytes_per_second, bytes, seconds, reader, depth, direct, refused: list[str]. Raises StorageError,
    UnsupportedError for a reader that cannot run here, UsageError for a file shorter than one block.
    """
