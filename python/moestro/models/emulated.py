"""An emulated machine for a model: what its lanes take for the model's experts, and for all the rest of a layer."""

from __future__ import annotations

from moestro._core import EmulatedMachine
from moestro.device_names import EmulatedDevice
from moestro.errors import UsageError
from moestro.models.spec import ModelSpec, MoeSpec
from moestro.trace.machines import MODELS, Machine, read_machine

# Of machines whose file says nothing of a disk: an ordinary PCIe 3 drive.
_SSD = {"gb_per_s": 3.0, "fixed_us": 80.0}


def emulate(device: EmulatedDevice, spec: ModelSpec, record_bytes: list[int]) -> EmulatedMachine:
    """record_bytes: of an expert, by layer with experts. Raises UsageError for a machine without a device."""
    machine = emulated_machine(device)
    moe = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    if device.like is not None:
        model = MODELS[device.like]
        costs = [machine.costs(model)] * len(moe)
        layer = machine.layer(model)
    else:
        costs = [
            machine.lane_costs(nbytes, 3 * spec.hidden_size * mlp.intermediate_size)
            for nbytes, mlp in zip(record_bytes, moe, strict=True)
        ]
        shared = max((mlp.shared.intermediate_size for mlp in moe if mlp.shared is not None), default=0)
        heads = 2 * (spec.num_heads + spec.num_kv_heads) * spec.head_dim  # q, k, v and the output
        layer = machine.layer_costs(spec.hidden_size * (heads + 3 * shared))
    return EmulatedMachine(memory=device.memory, costs=costs, layer=layer)


def emulated_machine(device: EmulatedDevice) -> Machine:
    """The device's machine, with what it says otherwise. Raises UsageError."""
    if device.like is not None and device.like not in MODELS:
        raise UsageError(f"device: like: expected one of {', '.join(MODELS)}, got {device.like!r}")
    machine = read_machine(device.machine)
    if not machine.has_device:
        raise UsageError(f"device: machine {device.machine!r} has no device and no link; choose another")
    lanes = {"ssd": _SSD, **machine.lanes}
    said = (
        ("link", "gb_per_s", device.link),
        ("link", "fixed_us", device.latency),
        ("device", "gb_per_s", device.compute),
        ("cpu", "gb_per_s", device.cpu),
        ("ssd", "gb_per_s", device.ssd),
    )
    for lane, key, value in said:
        if value is not None:
            lanes[lane] = {**lanes[lane], key: value}
    return Machine(machine.name, machine.source, lanes)
