"""The training steps that are timed. Every peer builds the same network, from the same numbers, for the same batch."""

from typing import NamedTuple

import numpy as np

LEARNING_RATE = 1e-3  # of Adam, with optax's other defaults


class Workload(NamedTuple):
    network: str
    inputs: tuple[int, ...]  # of one batch; floating point for images, integers below `classes` for text
    classes: int

    @property
    def is_text(self) -> bool:
        return len(self.inputs) == 2 and self.classes > 10


WORKLOADS = {
    "mlp": Workload("784-512-512-10, relu; batch 128", (128, 784), 10),
    "cnn": Workload(
        "28x28x1: conv 32, relu, pool 2, conv 64, relu, pool 2, dense 128, relu, dense 10; batch 64", (64, 28, 28, 1), 10
    ),
    "lstm": Workload("65 symbols, embed 64, lstm 256, dense 65; length 64, batch 32", (32, 64), 65),
    "gru": Workload("65 symbols, embed 64, gru 256 (reset after the product), dense 65; length 64, batch 32", (32, 64), 65),
    "gpt": Workload("65 symbols, 4 layers, width 128, 4 heads, tied head; length 128, batch 16", (16, 128), 65),
    "gpt_48": Workload("the same with 48 layers; length 128, batch 2", (2, 128), 65),
    "resnet": Workload("ResNet-18 with a 3x3 stem, 10 classes; 32x32x3, batch 32", (32, 32, 32, 3), 10),
}


def batch(name: str, seed: int = 0, examples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """inputs, targets: `examples` of them, or one batch; for text the targets are the symbols that come next."""
    workload, rng = WORKLOADS[name], np.random.default_rng(seed)
    count = workload.inputs[0] if examples is None else examples
    if workload.is_text:
        text = rng.integers(0, workload.classes, (count, workload.inputs[1] + 1), dtype=np.int32)
        return text[:, :-1], text[:, 1:]
    inputs = rng.standard_normal((count, *workload.inputs[1:]), dtype=np.float32)
    return inputs, rng.integers(0, workload.classes, count, dtype=np.int32)
