"""GPT-2 in its sizes: the model, its training, how it is cut over devices, what it costs, what it writes."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jnn


class Preset(NamedTuple):
    layers: int
    width: int
    heads: int
    window: int
    update: int  # windows
    batch: int  # windows a step, of all devices together
    rate: float


PRESETS = {
    "tiny": Preset(2, 64, 2, 64, 8, 8, 3e-3),
    "124M": Preset(12, 768, 12, 1024, 512, 32, 6e-4),
    "350M": Preset(24, 1024, 16, 1024, 512, 32, 3e-4),
    "1558M": Preset(48, 1600, 25, 1024, 512, 32, 2e-4),
}
# tensor parallel, as Shoeybi et al. 2019: the first product of two is cut by columns and the second by rows. The first axis
# is that of the blocks.
COLUMNS, ROWS = PartitionSpec(None, None, "model"), PartitionSpec(None, "model", None)
RULES = {f"attention/{name}/w": COLUMNS for name in "qkv"} | {"attention/out/w": ROWS, "up/w": COLUMNS, "down/w": ROWS}


def model_of(preset: Preset, vocabulary: int, **options):
    shape = {"layers": preset.layers, "width": preset.width, "heads": preset.heads}
    return jnn.models.gpt(vocabulary, preset.window, **shape, **options)


def training_of(preset: Preset, vocabulary: int, steps: int, dtype, parts: int = 1) -> jnn.Training:
    """steps: updates; parts: into which a batch is cut. Weight decay of 0.1 for matrices alone."""

    def loss(prediction, target):
        x, head = prediction
        return jnn.losses.linear_cross_entropy((x.astype(dtype), head), target, chunk=1024 * parts)

    objective = jnn.supervised(jnn.precision(model_of(preset, vocabulary, logits=False, remat=True), dtype), loss)
    schedule = jnn.schedules.warmup_cosine(preset.rate, steps // 50, steps, final=0.1 * preset.rate)
    adamw = jnn.optim.adamw(schedule, b2=0.95, weight_decay=0.1, where=jnn.tree.is_weight)
    optimizer, pieces = jnn.optim.chain(jnn.optim.clip_by_global_norm(1.0), adamw), preset.update // preset.batch
    return jnn.training(objective, optimizer if pieces == 1 else jnn.optim.accumulate(optimizer, pieces))


def flops_per_token(preset: Preset, parameters: int) -> float:
    """6 for each parameter, 12 for each layer, width and token of the window (Chowdhery et al. 2022, appendix B); what is
    computed again for want of memory does not count."""
    return 6 * parameters + 12 * preset.layers * preset.width * preset.window


def written(preset: Preset, vocabulary: int, dtype, mesh, params, prompt, key) -> np.ndarray:
    """A window of tokens that begins with the prompt, at temperature 0.8."""
    twin = jnn.precision(model_of(preset, vocabulary, cache=True), dtype)

    @partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def write(params, prompt, key):
        _, fresh = twin.init(key, prompt)
        length = preset.window - len(prompt) + 1
        return jnn.generate(twin, params, fresh, prompt, length=length, key=key, temperature=0.8)[0]

    return np.concatenate([prompt, write(params, prompt, key)])
