"""SIGKILL after each step of a short run, with each optimizer and each loader."""

import os
import shutil
import signal
from pathlib import Path

import jax

import jnn
from experiments.benchmarks.reliability.contestants import BATCH, OBJECTIVE, data, digest
from experiments.benchmarks.reliability.trials import FORKED, prepared
from jnn import optim
from jnn.checkpoints import Checkpoints

STEPS = 6
OPTIMIZERS = {
    "sgd": optim.sgd(0.1),
    "momentum": optim.momentum(0.1),
    "nesterov": optim.nesterov(0.1),
    "adagrad": optim.adagrad(0.1),
    "rmsprop": optim.rmsprop(0.01),
    "adam": optim.adam(jnn.schedules.cosine(0.01, STEPS)),
    "adamw": optim.adamw(0.01),
    "lion": optim.lion(0.001),
    "muon": optim.muon(0.01),
    "delta_bar_delta": optim.delta_bar_delta(0.01),
    "clipped, averaged": optim.chain(optim.clip_by_global_norm(0.1), optim.ema_params(0.9), optim.adam(0.01)),
}


def _loaded(loader: str):
    """-> data and batch size for `jnn.run`."""
    if loader == "arrays":
        return data(), BATCH
    workers = 2 if loader == "workers" else 0
    return jnn.data.stream(list(zip(*data(), strict=True)), batch_size=BATCH, seed=1, workers=workers), None


LOADERS = ("arrays", "stream", "workers")


def _train(optimizer: str, loader: str, work: Path, folder: Path | None, kill_at: int | None, result: Path) -> None:
    """In a child: to the end, or until it is killed in the step after `kill_at`."""
    prepared(work)
    training = jnn.training(OBJECTIVE, OPTIMIZERS[optimizer])
    given, batch_size = _loaded(loader)

    def kill(report):
        if report.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    kept = folder and Checkpoints(folder, every=2)
    options = {"batch_size": batch_size, "segment": 1, "checkpoint": kept, "progress": False, "hooks": (kill,)}
    found = jnn.run(training, given, key=jax.random.key(0), steps=STEPS, **options)
    result.write_text(digest({"state": found.train_state._asdict(), "history": found.history}))


def steps(work: Path) -> dict:
    """Of jnn: each run is killed after its first step, goes on, is killed after the second ..., and ends undisturbed."""
    result, kills, alike = work / "digest", 0, []
    for optimizer in OPTIMIZERS:
        for loader in LOADERS:
            folder, ends = work / "steps", []
            for where in (None, folder):
                for kill_at in (*range(1, STEPS), None) if where else (None,):
                    process = FORKED.Process(target=_train, args=(optimizer, loader, work, where, kill_at, result))
                    process.start()
                    process.join()
                    kills += process.exitcode == -signal.SIGKILL
                ends.append(result.read_text() if result.exists() else None)
                result.unlink(missing_ok=True)
            alike.append(ends[0] == ends[1] is not None)
            shutil.rmtree(folder)
            print(f"  {optimizer}, {loader}: {kills} kills, {sum(alike)} of {len(alike)} runs ended alike", flush=True)
    return {
        "kills": kills,
        "optimizers": len(OPTIMIZERS),
        "loaders": len(LOADERS),
        "runs": len(alike),
        "ended alike": sum(alike),
    }
