"""What test_several_processes starts twice: a run over a mesh of the devices of all processes.

python two_processes.py FOLDER AXES PORT PROCESSES PROCESS"""

import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jnn
from jnn import sharding
from jnn.checkpoints import Checkpoints
from jnn.runs import run

STEPS = 12
rng = np.random.default_rng(0)
EXAMPLES = [(rng.normal(size=6).astype(np.float32), np.int32(rng.integers(0, 3))) for _ in range(40)]
MODEL = jnn.serial(up=jnn.dense(16), relu=jnn.activations.relu, norm=jnn.batch_norm(), down=jnn.dense(3))
OPTIMIZER = jnn.optim.chain(jnn.optim.clip_by_global_norm(0.1), jnn.optim.momentum(0.5, 0.9))
TRAINING = jnn.training(jnn.supervised(MODEL, jnn.losses.softmax_cross_entropy), OPTIMIZER)
RULES = {"up/w": PartitionSpec(None, "model"), "down/w": PartitionSpec("model", None)}


class Source(list):
    def __getitem__(self, i):
        time.sleep(float(os.environ.get("SECONDS_AN_EXAMPLE", "0")))  # so that there is time to stop a process
        return super().__getitem__(i)


def going(training, folder, cut=None):
    stream = jnn.data.stream(Source(EXAMPLES), batch_size=8, seed=1, sharding=cut)
    judged = tuple(np.stack(part) for part in zip(*EXAMPLES[:16], strict=True))
    options = {"segment": 2, "eval_data": judged, "eval_every": 4, "progress": False}
    kept = Checkpoints(folder, every=4)
    return run(training, stream, key=jax.random.key(0), steps=STEPS, checkpoint=kept, **options)


def main(folder, axes, port, count, index):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    seconds = {"initialization_timeout": 120, "heartbeat_timeout_seconds": 10, "shutdown_timeout_seconds": 20}
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index), **seconds)
    mesh = sharding.mesh(**json.loads(axes))
    rules = RULES if "model" in mesh.shape else {"*": sharding.fully("data", least=1)}
    cut = NamedSharding(mesh, PartitionSpec("data"))
    found = going(sharding.shard(TRAINING, mesh, rules), folder, cut)
    told = {
        "devices": [jax.process_count(), jax.device_count()],
        "losses": found.history["loss"].tolist(),
        "evaluations": found.history["eval"]["loss"].tolist(),
        "shards": [shard.data.shape for shard in found.train_state.params["up"]["w"].addressable_shards],
    }
    Path(folder, f"told_{index}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
