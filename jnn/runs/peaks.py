"""Which share of what a device can do a run makes use of."""

import jax

from jnn.costs import flops_by_path
from jnn.types import Training, TrainState

# operations a second in bfloat16 (V100 and T4: float16), dense, by the makers' data sheets; by `device_kind`, longest first
PEAKS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
    "TPU v6 lite": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}


def seconds_at_peak(training: Training, train_state: TrainState, batch) -> float | None:
    """What a step would take if all devices of the parameters did nothing but its operations, at their peak; None where the
    peak or the number of operations is not known. batch: arrays or shapes."""
    devices = set().union(*(leaf.devices() for leaf in jax.tree.leaves(train_state.params)))
    kind = next(iter(devices)).device_kind
    peak = next((value for name, value in PEAKS.items() if kind.startswith(name)), None)
    if peak is None:
        return None
    operations = flops_by_path(jax.make_jaxpr(training.step)(train_state, batch), [()])[()]
    return None if operations is None else operations / (peak * len(devices))
