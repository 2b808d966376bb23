"""What a long run was begun with, beside its checkpoints: a run that goes on has to be the same one."""

import hashlib
import json
import timeit
from pathlib import Path

import jax
import jax.numpy as jnp

from jnn import checkpoints
from jnn.checkpoints import processes
from jnn.comparison.errors import InputError


def begun(out: Path, asked: dict, steps: int) -> dict:
    """OUT/run.json: `asked`, as it was when the run of which OUT/checkpoints are was begun, and, of the devices that took its
    last steps or are to take them, "step", from which on they did, and "product_rate".

    Raises InputError where another thing is asked for now. Of several processes all call it."""
    path, step = out / "run.json", max(checkpoints.steps(out / "checkpoints"), default=0)
    about = json.loads(path.read_text()) if step and path.exists() else {"asked": asked}
    for name, was in about["asked"].items():
        if was != asked[name]:
            raise InputError(f"{out} holds another run: its {name} was {was}, here it is {asked[name]}; give another --out")
    if step < steps or "step" not in about:
        about |= {"step": step, "product_rate": product_rate()}
    processes.of_all(0)  # all have read it
    if processes.is_first():
        part = path.with_name(".run.json.part")
        part.write_text(json.dumps(about, indent=1) + "\n")
        part.replace(path)
    return about


def fingerprint(windows) -> str:
    """Of `jnn.data.Tokens`: their number, and a checksum of a thousand windows or more, or of all."""
    some = b"".join(windows[i][1].tobytes() for i in range(0, len(windows), max(len(windows) // 1000, 1)))
    return f"{windows.count} tokens, checksum {hashlib.sha256(some).hexdigest()[:12]}"


def product_rate() -> float:
    """FLOP/s of a plain product of matrices in bfloat16 on one device, the best of several."""
    n, times = (512, 4) if jax.default_backend() == "cpu" else (8192, 16)
    a = jax.random.normal(jax.random.key(0), (n, n), jnp.bfloat16)  # equal numbers would cost less power and be quicker
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, x: x @ a * n**-0.5, a))
    return 2 * n**3 * times / min(timeit.repeat(lambda: jax.block_until_ready(chain(a)), number=1, repeat=6))
