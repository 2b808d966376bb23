"""The checkpoints of a run: the last ones and the best, whole ones only, and no error of a save is lost."""

import errno
import os
import shutil
import threading
from contextlib import closing
from pathlib import Path

import jax.numpy as jnp
import pytest

from jnn import checkpoints
from jnn.checkpoints import CheckpointError, Checkpoints, manifests
from jnn.checkpoints.series import Writer


@pytest.fixture
def written(tmp_path):
    def write(losses, **options):
        writer = Writer(Checkpoints(tmp_path, **options))
        for step, loss in enumerate(losses):
            writer.save(step, {"a": jnp.full(3, float(step))}, {"metrics": {"eval/loss": loss}})
        writer.close()
        return tmp_path

    return write


def like(manifest):
    return {"a": jnp.zeros(3)}


def test_the_last_and_the_best_are_kept(written):
    assert checkpoints.steps(written([3.0, 1.0, 2.0, 4.0, 5.0], keep=2, best="eval/loss")) == [1, 3, 4]


def test_the_best_may_be_the_largest(written):
    assert checkpoints.steps(written([3.0, 1.0, 5.0, 4.0, 2.0], keep=1, best="eval/loss", largest=True)) == [2, 4]


def test_the_newest_is_loaded(written):
    step, loaded = checkpoints.latest(written([1.0, 1.0]), like)
    assert step == 1
    assert loaded.tree["a"].tolist() == [1.0, 1.0, 1.0]


def test_a_damaged_one_is_passed_over_with_a_warning_that_names_the_file(written):
    folder = written([1.0, 1.0])
    path = checkpoints.at(folder, 1) / "arrays" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=f"{path} is damaged.*going back to the checkpoint before"):
        step, _ = checkpoints.latest(folder, like)
    assert step == 0


def test_where_all_are_damaged_nothing_is_begun_anew(written):
    folder = written([1.0])
    (checkpoints.at(folder, 0) / "manifest.json").write_text("x")
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match="all checkpoints, of steps 0, are damaged"):
        checkpoints.latest(folder, like)


def test_without_any_there_is_none(tmp_path):
    assert checkpoints.latest(tmp_path / "none", like) is None


def test_what_a_killed_save_left_is_no_checkpoint_and_is_taken_away(written):
    folder = written([1.0])
    (checkpoints.at(folder, 7) / "arrays").mkdir(parents=True)
    assert checkpoints.steps(folder) == [0]
    Writer(Checkpoints(folder)).close()
    assert not checkpoints.at(folder, 7).exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")])
def test_an_error_of_a_save_is_raised_at_the_next_and_once(tmp_path, monkeypatch, error):
    writer = Writer(Checkpoints(tmp_path))

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "seal", fail)
        writer.save(1, {"a": jnp.zeros(3)}, {})
        with pytest.raises(CheckpointError, match=f"could not be written to {tmp_path}: .*{error.strerror}"):
            writer.save(2, {"a": jnp.zeros(3)}, {})
    writer.save(3, {"a": jnp.zeros(3)}, {})
    writer.close()
    assert checkpoints.steps(tmp_path) == [3]


def test_an_error_of_the_last_save_is_raised_at_the_end(tmp_path, monkeypatch):
    writer = Writer(Checkpoints(tmp_path))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    writer.save(1, {"a": jnp.zeros(3)}, {})
    with pytest.raises(CheckpointError, match="Input/output error"):
        writer.close()


def test_an_error_at_any_sync_is_raised_and_the_checkpoint_before_stays_whole(tmp_path, monkeypatch):
    errors = [errno.ENOSPC, errno.EIO, errno.ETIMEDOUT]
    Writer(Checkpoints(tmp_path)).close()
    sync, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(sync(number)))
    writer = Writer(Checkpoints(tmp_path, keep=99))
    writer.save(0, {"a": jnp.zeros(3)}, {})
    writer.wait()
    assert len(synced) > 10
    for call in range(len(synced)):
        left = [call]

        def fail(number, left=left, call=call):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(errors[call % 3], os.strerror(errors[call % 3]))
            return sync(number)

        monkeypatch.setattr(os, "fsync", fail)
        writer.save(call + 1, {"a": jnp.ones(3)}, {})
        with pytest.raises(CheckpointError, match=os.strerror(errors[call % 3])):
            writer.wait()
        monkeypatch.setattr(os, "fsync", sync)
        # where the last sync failed, that of the name above it, all is there
        assert set(checkpoints.steps(tmp_path)) <= {0, call + 1}
        checkpoints.verify(checkpoints.at(tmp_path, 0))
        for step in set(checkpoints.steps(tmp_path)) - {0}:
            assert call >= len(synced) - 2
            shutil.rmtree(checkpoints.at(tmp_path, step))
    writer.close()


def test_an_error_before_a_save_is_in_the_background_is_raised_at_once(tmp_path, monkeypatch, raises):
    writer = Writer(Checkpoints(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with raises(CheckpointError, f"the checkpoint could not be written to {tmp_path}: [Errno 28] No space left on device"):
            writer.save(1, {"a": jnp.zeros(3)}, {})
    writer.save(2, {"a": jnp.zeros(3)}, {})
    writer.close()
    assert checkpoints.steps(tmp_path) == [2]


def test_a_save_that_does_not_end_is_an_error(tmp_path, monkeypatch, raises):
    held, seal = threading.Event(), manifests.seal
    monkeypatch.setattr(manifests, "seal", lambda *args: held.wait() and seal(*args))
    writer = Writer(Checkpoints(tmp_path, timeout=0.2))
    writer.save(1, {"a": jnp.zeros(3)}, {})
    with raises(CheckpointError, f"the checkpoint could not be written to {tmp_path}: it took more than 0.2 seconds"):
        writer.save(2, {"a": jnp.zeros(3)}, {})
    held.set()
    while (thread := writer._thread) and thread.is_alive():
        thread.join()
    writer.close()
    assert checkpoints.steps(tmp_path) == [1]


def test_arrays_may_be_given_up_as_soon_as_save_returns(tmp_path):
    import jax

    add = jax.jit(lambda a: a + 1, donate_argnums=0)
    writer, a = Writer(Checkpoints(tmp_path, keep=9)), jnp.zeros(3_000_000)
    for step in range(3):
        writer.save(step, {"a": a}, {})
        a = add(add(a))
    writer.close()
    for step in range(3):
        loaded = checkpoints.load(checkpoints.at(tmp_path, step)).tree["a"]
        assert (loaded.min(), loaded.max()) == (2 * step, 2 * step)


def test_a_folder_is_free_after_an_error_that_somebody_holds(tmp_path, monkeypatch):
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("socket.gethostname", fail)
        with pytest.raises(OSError, match="No space left"):
            Writer(Checkpoints(tmp_path))
    (tmp_path / "000000001").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("jnn.checkpoints.files.remove", lambda path: fail())
        with pytest.raises(OSError, match="No space left"):
            Writer(Checkpoints(tmp_path))
    Writer(Checkpoints(tmp_path)).close()


def test_a_folder_of_somebody_else_is_not_written_over(tmp_path):
    (tmp_path / "000000001").mkdir()
    (tmp_path / "000000001" / "notes.txt").touch()
    with closing(Writer(Checkpoints(tmp_path))) as writer:
        with pytest.raises(CheckpointError, match="000000001 is there and no checkpoint"):
            writer.save(1, {"a": jnp.zeros(3)}, {})
        writer.save(2, {"a": jnp.zeros(3)}, {})
    assert checkpoints.steps(tmp_path) == [2]
    assert (tmp_path / "000000001" / "notes.txt").exists()
