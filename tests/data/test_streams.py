"""A stream's batches are a function of seed and step, wherever and however it is taken up."""

import itertools
import json
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jnn
from jnn import data
from jnn.data import DataError, Images, Table, Tokens, write_tokens
from jnn.runs import run

pytest.importorskip("grain", reason="needs grain")


class Squares:
    """Example i is a pytree that holds i and its square."""

    def __init__(self, examples: int, bad: int | None = None):
        self.examples, self.bad = examples, bad

    def __len__(self):
        return self.examples

    def __getitem__(self, i):
        if i == self.bad:
            raise KeyError("no such row")
        return {"i": np.int32(i), "square": np.array([i, i * i], np.float32)}


def taken(batches, n=None):
    """Batches as lists of the examples in them, which are checked to belong together."""
    found = []
    for batch in itertools.islice(batches, n):
        np.testing.assert_array_equal(batch["square"], np.stack([batch["i"], batch["i"] ** 2], axis=1))
        found.append(batch["i"].tolist())
    return found


def stream(examples: int = 11, **options: Any):
    return data.stream(Squares(examples), **{"batch_size": 4, **options})


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("examples", "batch_size"), [(11, 4), (12, 4), (3, 8), (1, 2), (5, 5)])
def test_every_example_comes_once_each_epoch(examples, batch_size, shuffle):
    epochs = 3 * batch_size
    found = taken(stream(examples, batch_size=batch_size, epochs=epochs, shuffle=shuffle))
    assert [len(batch) for batch in found] == [batch_size] * (examples * epochs // batch_size)
    seen = np.ravel(found)
    for epoch in range(len(seen) // examples):
        part = seen[epoch * examples : (epoch + 1) * examples].tolist()
        assert sorted(part) == list(range(examples))
        assert shuffle or part == sorted(part)


def test_epochs_and_seeds_have_orders_of_their_own():
    epochs = np.reshape(taken(stream(12, batch_size=12, seed=5), 6), (6, 12))
    others = np.reshape(taken(stream(12, batch_size=12, seed=50), 6), (6, 12))
    assert len(np.unique(np.concatenate([epochs, others]), axis=0)) == 12
    np.testing.assert_array_equal(epochs, np.reshape(taken(stream(12, batch_size=12, seed=5), 6), (6, 12)))


@pytest.mark.parametrize("options", [{"epochs": 3}, {"epochs": 3, "shuffle": False}, {"seed": 7}])
def test_a_fresh_iterator_goes_on_from_every_position(options):
    whole, steps = stream(**options), 9
    batches, iterator = taken(whole, steps), iter(whole)
    states = [iterator.get_state()]
    for _ in range(steps - 1):
        next(iterator)
        states.append(json.loads(json.dumps(iterator.get_state())))
    ended = taken(iterator) if "epochs" in options else []
    for at, state in enumerate(states):
        fresh = iter(stream(**options))
        fresh.set_state(state)
        assert fresh.get_state() == state
        assert taken(fresh, steps - at) == batches[at:]
        if ended:
            assert next(fresh, None) is None
            assert fresh.get_state() == iterator.get_state()


def test_an_iterator_is_set_back_and_forth():
    iterator = iter(stream(seed=3))
    states, batches = [], []
    for _ in range(6):
        states.append(iterator.get_state())
        batches += taken(iterator, 1)
    for at in (2, 5, 0, 3):
        iterator.set_state(states[at])
        assert taken(iterator, 6 - at) == batches[at:]


def test_the_end_of_a_stream_is_a_position_as_well():
    iterator = iter(stream(epochs=3))
    batches = taken(iterator)
    fresh = iter(stream(epochs=3))
    fresh.set_state(iterator.get_state())
    assert taken(fresh) == []
    longer = iter(stream(epochs=6))
    longer.set_state(iterator.get_state())
    assert batches + taken(longer) == taken(stream(epochs=6))


@pytest.mark.slow
def test_another_number_of_workers_gives_the_same_batches_and_goes_on_from_every_position():
    batches = taken(stream(epochs=2))
    assert taken(stream(epochs=2, workers=2)) == batches
    iterator = iter(stream(epochs=2, workers=2))
    for at in range(len(batches)):
        one = iter(stream(epochs=2, workers=(at + 1) % 3))  # none, one and two
        one.set_state(iterator.get_state())
        assert taken(one, 2) == batches[at : at + 2]
        assert taken(iterator, 1) == batches[at : at + 1]


@pytest.mark.slow
def test_workers_stack_what_they_read_and_their_errors_come_out(tmp_path):
    write_tokens(tmp_path / "a", np.arange(1000))
    options = {"batch_size": 8, "epochs": 1, "seed": 2}
    found = list(data.stream(Tokens(tmp_path / "a", 9), workers=2, **options))
    for one, other in zip(found, data.stream(Tokens(tmp_path / "a", 9), **options), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(DataError, match="stream: example 5 cannot be read: KeyError: 'no such row'"):
        taken(data.stream(Squares(11, bad=5), batch_size=4, workers=2), 6)


@pytest.mark.parametrize(
    ("changed", "name", "was", "now"),
    [
        ({"batch_size": 2}, "batch_size", 4, 2),
        ({"seed": 1}, "seed", 0, 1),
        ({"examples": 12}, "examples", 11, 12),
        ({"shuffle": False}, "shuffle", True, False),
    ],
)
def test_the_position_of_another_stream_is_refused(changed, name, was, now, raises):
    iterator = iter(stream(**changed))
    with raises(ValueError, f"stream: this is the position of another stream: its {name} was {was}, here {now}"):
        iterator.set_state(iter(stream()).get_state())


@pytest.mark.parametrize("options", [{"epochs": 3}, {"epochs": 3, "shuffle": False}, {"epochs": 5, "batch_size": 12}])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_read_the_batches_of_one(processes, options, monkeypatch):
    whole = taken(stream(**options))
    iterator = iter(stream(**options))
    next(iterator)
    state = iterator.get_state()
    monkeypatch.setattr(jax, "process_count", lambda: processes)

    def of_process(index, state=None):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        iterator = iter(stream(**options))
        if state is not None:
            iterator.set_state(state)  # as one process left it
        return taken(iterator)

    for begin, parts in ((0, map(of_process, range(processes))), (1, [of_process(i, state) for i in range(processes)])):
        found = [list(itertools.chain(*batch)) for batch in zip(*parts, strict=True)]
        assert found == whole[begin:]


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch, raises):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with raises(ValueError, "stream: a batch of 4 is not to be shared by 3 processes"):
        stream()


@pytest.mark.parametrize("bad", [0, 3, 10])
def test_an_example_that_cannot_be_read_is_named(bad):
    with pytest.raises(DataError, match=f"stream: example {bad} cannot be read: KeyError: 'no such row'") as error:
        taken(data.stream(Squares(11, bad), batch_size=4), 6)
    assert isinstance(error.value.__cause__, KeyError)


def test_after_an_error_the_same_batch_is_tried_again():
    source = Squares(11, bad=9)
    iterator = iter(data.stream(source, batch_size=4, shuffle=False))
    good = taken(iterator, 2)
    for _ in range(2):
        with pytest.raises(DataError, match="example 9"):
            next(iterator)
    source.bad = None
    assert good + taken(iterator, 3) == taken(stream(shuffle=False), 5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([np.zeros(2), np.zeros(3)], "stream: example 1 is float64 (3,), unlike example 0, float64 (2,)"),
        ([{"a": 1}, {"b": 1}], "stream: example 1 is {b: int64 ()}, unlike example 0, {a: int64 ()}"),
        ([{"a": 1}, {"a": None}], "stream: example 1 is {a: None}, unlike example 0, {a: int64 ()}"),
        ([1, 1.5], "stream: example 1 is float64 (), unlike example 0, int64 ()"),
        ([(1, 2), None], "stream: example 1 is None, unlike example 0, (int64 (), int64 ())"),
        ([None, None], "stream: example 0 holds no number: None"),
    ],
)
def test_examples_that_make_no_batch_are_named(source, message, raises):
    with raises(DataError, message):
        next(iter(data.stream(source, batch_size=2, shuffle=False)))


MESH = AbstractMesh((3, 2), ("a", "b"))


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (iter([1]), {}, TypeError, "stream: a source has a length and examples by number, got list_iterator"),
        ([], {}, ValueError, "stream: the source is empty"),
        ([1], {"batch_size": 0}, ValueError, "stream: batch_size must be at least 1, got 0"),
        ([1], {"workers": -1}, ValueError, "stream: workers must be at least 0, got -1"),
        ([1], {"seed": -1}, ValueError, "stream: seed must be at least 0, got -1"),
        ([1], {"seed": 2**32}, ValueError, "stream: seed must be at most 4294967295, got 4294967296"),
        ([1, 2, 3], {"epochs": 1}, ValueError, "stream: 1 x 3 examples fill no batch of 4"),
        ([1], {"sharding": MESH}, TypeError, "stream: sharding must be a NamedSharding of a batch, got AbstractMesh"),
        ([1], {"sharding": NamedSharding(MESH, P("a"))}, ValueError, "stream: 3 devices do not divide a batch of 4 examples"),
        (
            [1],
            {"sharding": NamedSharding(MESH, P(("a", "b"), None))},
            ValueError,
            "stream: 6 devices do not divide a batch of 4 examples",
        ),
    ],
)
def test_mistakes_are_said(source, options, error, message, raises):
    with raises(error, message):
        data.stream(source, **{"batch_size": 4, **options})


@pytest.mark.parametrize("spec", [P(), P(None, "a"), P("b")])
def test_a_batch_that_the_devices_of_its_axis_divide_is_taken(spec):
    assert data.stream([1], batch_size=4, sharding=NamedSharding(MESH, spec)).batch_size == 4


def test_a_source_of_grains_own_is_one_too():
    import grain

    source = grain.MapDataset.range(7).map(lambda i: {"i": np.int32(i), "square": np.array([i, i * i], np.float32)})
    assert taken(data.stream(source, batch_size=3, shuffle=False), 3) == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]


# a run on a stream of each kind of source


@pytest.fixture
def sources(tmp_path):
    """name -> its source, and the model and loss for it"""
    rng = np.random.default_rng(0)

    def tokens():
        write_tokens(tmp_path / "tokens", rng.integers(0, 7, 200))
        return Tokens(tmp_path / "tokens", 6, vocabulary=7), jnn.serial(jnn.embed(7, 4), jnn.dense(7))

    def images():
        image = pytest.importorskip("PIL.Image", reason="needs pillow")
        for i, pixels in enumerate(rng.integers(0, 256, (14, 4, 4, 3), np.uint8)):
            (tmp_path / "pictures" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            image.fromarray(pixels).save(tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png")
        scaled = jnn.compose(lambda net, x: net.head(x.reshape(*x.shape[:-3], -1).astype(np.float32) / 255), head=jnn.dense(2))
        return Images(tmp_path / "pictures"), scaled

    def table():
        pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
        rows = {
            "x": pa.array(rng.normal(size=(30, 3)).tolist(), pa.list_(pa.float32())),
            "y": pa.array(rng.integers(0, 2, 30), pa.int32()),
        }
        with pa.ipc.new_file(tmp_path / "table", pa.schema({name: column.type for name, column in rows.items()})) as file:
            file.write_table(pa.table(rows), max_chunksize=8)
        return Pairs(Table(tmp_path / "table")), jnn.serial(jnn.dense(4), jnn.dropout(0.3), jnn.dense(2))

    return {"tokens": tokens, "images": images, "table": table}


class Pairs:
    """(inputs, targets) of a table's rows"""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        return row["x"], row["y"]


@pytest.mark.parametrize("kind", ["tokens", "images", "table"])
def test_a_run_that_is_stopped_anywhere_goes_on_with_the_very_next_batch(kind, sources, tmp_path):
    source, model = sources[kind]()
    training = jnn.training(jnn.supervised(model, jnn.losses.softmax_cross_entropy), jnn.optim.adam(0.01))

    def going(steps, **options):
        batches = data.stream(source, batch_size=4, seed=1)
        return run(training, batches, key=jax.random.key(0), steps=steps, segment=3, progress=False, **options)

    whole = going(8)
    assert len(set(whole.history["loss"].tolist())) == 8
    for stop in (2, 5):
        going(stop, checkpoint=tmp_path / f"run{stop}")
        again = going(8, checkpoint=tmp_path / f"run{stop}")
        for one, other in zip(
            jax.tree.leaves((again.train_state.params, again.history)),
            jax.tree.leaves((whole.train_state.params, whole.history)),
            strict=True,
        ):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_run_on_another_stream_is_refused_and_an_error_of_the_source_comes_out(sources, tmp_path, raises):
    source, model = sources["tokens"]()
    training = jnn.training(jnn.supervised(model, jnn.losses.softmax_cross_entropy), jnn.optim.sgd(0.1))
    options = {"key": jax.random.key(0), "segment": 2, "progress": False}
    run(training, data.stream(source, batch_size=4), steps=2, checkpoint=tmp_path / "run", **options)
    with raises(ValueError, "stream: this is the position of another stream: its batch_size was 4, here 8"):
        run(training, data.stream(source, batch_size=8), steps=4, checkpoint=tmp_path / "run", **options)
    with pytest.raises(DataError, match=r"stream: example [0-9]+ cannot be read: DataError: .*: token .*, not below 6"):
        run(training, data.stream(Tokens(source.path, 6, vocabulary=6), batch_size=4), steps=40, **options)
