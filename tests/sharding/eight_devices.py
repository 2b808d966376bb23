"""Sharded runs beside those of one device. Run by test_sharding in a process of its own, which simulates 8 devices."""

import functools
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from test_pattern_fuzz import axes_of, cut, specs

import jnn
from experiments import gpts
from jnn import checkpoints, sharding
from jnn.checkpoints import Checkpoints
from jnn.runs import DivergedError, run
from jnn.types import TrainState

KEY, STEPS = jax.random.key(3), 12
rng = np.random.default_rng(0)
DATA = rng.normal(size=(48, 6)).astype(np.float32), rng.integers(0, 3, 48).astype(np.int32)
EVAL = DATA[0][:20], DATA[1][:20]  # which 8 do not divide
MODEL = jnn.serial(up=jnn.dense(16), relu=jnn.activations.relu, norm=jnn.batch_norm(), down=jnn.dense(8), head=jnn.dense(3))
# the momentum's steps are as long as the clipped gradient is: a norm of less than all of it would show
OPTIMIZER = jnn.optim.chain(jnn.optim.clip_by_global_norm(0.1), jnn.optim.momentum(0.5, 0.9))
MLP = jnn.training(jnn.supervised(MODEL, jnn.losses.softmax_cross_entropy), OPTIMIZER)
GPT = gpts.training_of(gpts.Preset(2, 16, 4, 8, 8, 8, 3e-3), 32, STEPS, jnp.float32)
TOKENS = rng.integers(0, 32, (24, 9)).astype(np.int32)
TASKS = {"mlp": (MLP, DATA, 16), "gpt": (GPT, (TOKENS[:, :-1], TOKENS[:, 1:]), 8)}
TENSOR = {"mlp": {"up/w": P(None, "model"), "down/w": P("model", None)}, "gpt": gpts.RULES}
FULLY = {"*": sharding.fully("data", least=1)}
LAYOUTS = {
    "data parallel": ({"data": 8}, lambda task: {}),
    "fully sharded": ({"data": -1}, lambda task: FULLY),
    "tensor parallel": ({"data": 1, "model": 8}, lambda task: TENSOR[task]),
    "data x tensor": ({"data": 2, "model": -1}, lambda task: {**TENSOR[task], **FULLY}),
}
UP = {"mlp": (6, 16), "gpt": (2, 16, 64)}  # of up/w, whose last axis is cut
PARTS = {"data parallel": 1, "fully sharded": 8, "tensor parallel": 8, "data x tensor": 4}


def sharded(task, layout):
    axes, rules = LAYOUTS[layout]
    return sharding.shard(TASKS[task][0], sharding.mesh(**axes), rules(task))


def shapes(train_state, name):
    """Of the parts on the devices: of the parameter, and of what the optimizer keeps beside it."""
    flat = {path: leaf for path, leaf in jnn.tree.flatten(train_state).items() if path.endswith(name)}
    assert len(flat) > 1
    return {shard.data.shape for leaf in flat.values() for shard in leaf.addressable_shards}


QUICK = (("mlp", "data parallel"), ("mlp", "data x tensor"))
CASES = [
    pytest.param(task, layout, marks=() if (task, layout) in QUICK else pytest.mark.slow)
    for task in TASKS
    for layout in LAYOUTS
]


@pytest.fixture(scope="module")
def alone():
    @functools.cache
    def fitted(task):
        training, data, size = TASKS[task]
        return jnn.fit(training, data, key=KEY, steps=STEPS, batch_size=size)

    return fitted


@pytest.mark.parametrize(("task", "layout"), CASES)
def test_the_losses_are_those_of_one_device_and_the_parameters_are_split(alone, task, layout):
    _, data, size = TASKS[task]
    fitted = jnn.fit(sharded(task, layout), data, key=KEY, steps=STEPS, batch_size=size)
    np.testing.assert_allclose(fitted.history["loss"], alone(task).history["loss"], rtol=1e-5)
    assert alone(task).history["loss"][-1] < 0.99 * alone(task).history["loss"][0]
    assert shapes(fitted.train_state, "up/w") == {(*UP[task][:-1], UP[task][-1] // PARTS[layout])}
    assert all(len(leaf.devices()) == 8 for leaf in jax.tree.leaves(fitted))
    # the running statistics are those of whole batches
    ours, theirs = (jax.tree.leaves(state) for state in (fitted.train_state.state, alone(task).train_state.state))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("spec", "time"), [(P(), 13), pytest.param(P("data"), 12, marks=pytest.mark.slow)])
def test_every_device_computes_its_part_of_each_chunk_of_the_cross_entropy(spec, time):
    mesh, classes, width, chunk = sharding.mesh(data=8), 40, 24, 16
    x, w = rng.normal(size=(8, time, width)).astype(np.float32), rng.normal(size=(width, classes)).astype(np.float32)
    target = rng.integers(0, classes, x.shape[:-1])
    lies = [jax.NamedSharding(mesh, part) for part in (P("data"), spec, P("data"))]

    def mean(x, w, target):
        return jnn.losses.linear_cross_entropy((x, w), target, chunk=chunk).mean()

    value_and_grad = jax.jit(jax.value_and_grad(mean, (0, 1)), out_shardings=(None, tuple(lies[:2])))
    compiled = value_and_grad.lower(*jax.device_put((x, w, target), tuple(lies))).compile()
    products = re.findall(r"= f32\[(\d+),(\d+)\]\S* dot\(", str(compiled.as_text()))
    # logits, gradients of x and of w: of whole chunks, and of the 8 rows that 13 steps leave
    of_rows = {(rows // 8, n) for rows in (chunk, 8) for n in (classes, width)}
    assert {tuple(map(int, shape)) for shape in products} <= of_rows | {(width, classes), (classes, width)}
    assert (str(chunk // 8), str(classes)) in products
    found = compiled(*jax.device_put((x, w, target), tuple(lies)))
    plain = jax.value_and_grad(lambda x, w: jnn.losses.softmax_cross_entropy(x @ w, target).mean(), (0, 1))(x, w)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_global_norm_is_that_of_all_devices():
    mesh = sharding.mesh(data=8)
    grads = {"w": np.arange(16, dtype=np.float32).reshape(8, 2), "b": np.full(3, 4.0, np.float32)}
    lying = jax.device_put(grads, sharding.shardings(grads, mesh, {"w": P("data")}))
    clip = jnn.optim.clip_by_global_norm(2.0)
    found, _ = jax.jit(clip.update)(lying, clip.init(grads))
    norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    for name, g in grads.items():
        np.testing.assert_allclose(found[name], 2 * g / norm, rtol=1e-6)


def test_batch_norm_is_over_the_batches_of_all_devices():
    layer, x = jnn.batch_norm(momentum=0.0), DATA[0]
    params, state = layer.init(KEY, x)
    lying = jax.device_put(x, jax.NamedSharding(sharding.mesh(data=8), P("data")))
    y, state = jax.jit(lambda x: layer.apply(params, state, x, train=True))(lying)
    np.testing.assert_allclose(state["mean"], x.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-4, atol=1e-5)


def going(training, steps=STEPS, folder=None, data=DATA, **options):
    kept = None if folder is None else Checkpoints(folder, every=3)
    options = {"eval_data": EVAL, "eval_every": 3, "segment": 4, "progress": False, "checkpoint": kept, **options}
    return run(training, data, key=KEY, steps=steps, batch_size=16, **options)


def assert_same_bits(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        one, other = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (one, other))
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_run_on_a_mesh_is_stopped_and_goes_on_bit_by_bit_and_on_other_meshes(alone, tmp_path):
    training = sharded("mlp", "fully sharded")
    whole = going(training)
    np.testing.assert_allclose(whole.history["loss"], alone("mlp").history["loss"], rtol=1e-5)
    going(training, steps=5, folder=tmp_path / "same")
    shutil.copytree(tmp_path / "same", tmp_path / "other")
    shutil.copytree(tmp_path / "same", tmp_path / "one")
    again = going(training, folder=tmp_path / "same")
    assert_same_bits(again.train_state, whole.train_state)
    assert_same_bits(again.history, whole.history)
    assert shapes(again.train_state, "up/w") == {(6, 2)}
    for name, other, part in (("other", sharded("mlp", "data x tensor"), (6, 4)), ("one", MLP, (6, 16))):
        found = going(other, folder=tmp_path / name)
        np.testing.assert_allclose(found.history["loss"], whole.history["loss"], rtol=1e-5)
        np.testing.assert_allclose(found.history["eval"]["loss"], whole.history["eval"]["loss"], rtol=1e-5)
        assert shapes(found.train_state, "up/w") == {part}
    objective = jnn.supervised(MODEL, jnn.losses.softmax_cross_entropy)
    end = jnn.evaluate(objective, found.train_state.params, found.train_state.state, EVAL)
    np.testing.assert_allclose(whole.history["eval"]["loss"][-1], end["loss"], rtol=1e-5)


def test_segments_leave_the_state_where_the_rules_put_it(tmp_path, caplog):
    # of these widths XLA would cut down/w over the batch's axis as well
    model = jnn.serial(
        up=jnn.dense(64), relu=jnn.activations.relu, norm=jnn.batch_norm(), down=jnn.dense(48), head=jnn.dense(3)
    )
    axes, rules = LAYOUTS["data x tensor"]
    mesh, rules = sharding.mesh(**axes), rules("mlp")
    training = sharding.shard(jnn.training(jnn.supervised(model, jnn.losses.softmax_cross_entropy), OPTIMIZER), mesh, rules)
    options: dict = {"eval_data": None, "eval_every": None}
    with caplog.at_level("WARNING", "jax"), jax.log_compiles():
        whole = going(training, **options).train_state
    assert caplog.text.count("Finished XLA compilation of jit(advance)") == 1
    placed = jax.tree.leaves(sharding.shardings(whole, mesh, rules))
    for leaf, lies in zip(jax.tree.leaves(whole), placed, strict=True):
        assert leaf.sharding.is_equivalent_to(lies, leaf.ndim)
    going(training, steps=5, folder=tmp_path, **options)
    assert_same_bits(going(training, folder=tmp_path, **options).train_state, whole)


def test_a_checkpoint_of_eight_devices_is_read_on_any(tmp_path):
    tree = {"w": jnp.arange(64.0).reshape(8, 8), "key": KEY}
    lying = jax.device_put(tree, sharding.shardings(tree, sharding.mesh(data=8), {"w": P("data")}))
    checkpoints.save(tmp_path / "kept", lying)
    for axes, rules, part in (({"a": 2, "b": 4}, {"w": P("b", "a")}, (2, 4)), ({"a": 8}, {}, (8, 8))):
        like = jax.device_put(tree, sharding.shardings(tree, sharding.mesh(**axes), rules))
        found = checkpoints.load(tmp_path / "kept", like).tree
        assert_same_bits(found, tree)
        assert {shard.data.shape for shard in found["w"].addressable_shards} == {part}
    assert_same_bits(checkpoints.load(tmp_path / "kept").tree["w"], tree["w"])


@pytest.mark.slow
def test_a_sharded_run_that_diverges_says_where(tmp_path):
    bad = DATA[0].copy()
    bad[5, 2] = np.nan
    errors = []
    for training in (sharded("mlp", "fully sharded"), MLP):
        with pytest.raises(DivergedError) as error:
            going(training, data=(bad, DATA[1]), eval_data=None, eval_every=None)
        errors.append((error.value.step, error.value.path))
    assert errors[0] == errors[1]
    assert errors[0][1] == "batch/0"


def trained(hparams, key, data):
    model = jnn.serial(jnn.dense(4), jnn.activations.relu, jnn.dense(3))
    training = jnn.training(jnn.supervised(model, jnn.losses.softmax_cross_entropy), jnn.optim.adam(hparams))
    return jnn.fit(training, data, key=key, steps=4, batch_size=5).history["loss"], jax.lax.axis_index("data")


def trained_alone(hparams, key, data):
    return jax.vmap(lambda _: trained(hparams, key, data), axis_name="data")(jnp.arange(1))[0][0]


@pytest.mark.parametrize("trials", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_sweep_over_devices_is_the_sweep_and_a_lane_of_nan_stays_alone(trials):
    rates = np.array([0.01, 0.1, 0.3], np.float32)[:trials]
    seeds = {1: 2, 3: 3}[trials]  # 2 lanes and 9 for 8 devices
    mesh = sharding.mesh(data=8)
    losses, device = jnn.sweep(trained, rates, seeds=seeds, seed=7, data=DATA, mesh=mesh)
    plain = jnn.sweep(trained_alone, rates, seeds=seeds, seed=7, data=DATA)
    assert losses.shape == (trials, seeds, 4)
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    np.testing.assert_array_equal(np.ravel(device), np.arange(trials * seeds) // (1 if trials == 1 else 2))
    broken, _ = jnn.sweep(trained, np.array([np.nan, *rates[1:]], np.float32), seeds=seeds, seed=7, data=DATA, mesh=mesh)
    assert np.isnan(broken[0, :, 1:]).all()
    np.testing.assert_array_equal(broken[1:], losses[1:])


def test_the_devices_fill_the_mesh(raises):
    names = ", ".join(map(str, jax.devices()))
    with raises(ValueError, f"mesh: {{'data': 3, 'model': -1}} does not fill the 8 devices: {names}"):
        sharding.mesh(data=3, model=-1)
    with raises(ValueError, "mesh: axes want a length of at least 1, and -1 once at most, got {'data': -1, 'model': -1}"):
        sharding.mesh(data=-1, model=-1)
    with raises(ValueError, "mesh: axes want a length of at least 1, and -1 once at most, got none"):
        sharding.mesh()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"w": P("expert")}, "shardings: up/w: the mesh has no axis 'expert', but data, model"),
        ({"w": P("data")}, "shardings: up/w (6, 16): 4 devices do not divide its axis of 6"),
        ({"w": P(None, ("data", "model")), "b": P("data")}, "shardings: up/b (6,): 4 devices do not divide its axis of 6"),
        ({"up/w": P(), "uup": P()}, "shardings: no path contains 'uup'; there are up/b, up/w"),
        ({"up": P(), "up/w": P()}, "shardings: 'up/w' takes nothing: 'up', which comes first, has taken up/w"),
        ({"w": sharding.fully("fsdp")}, "shardings: up/w: the mesh has no axis 'fsdp', but data, model"),
        ({"w": P("model", ("model",))}, "shardings: up/w: P('model', 'model') names the axis 'model' twice"),
        ({"w": P(P.UNCONSTRAINED)}, "shardings: up/w: the mesh has no axis UNCONSTRAINED, but data, model"),
        ({"b": P(None, "expert")}, "shardings: up/b: the mesh has no axis 'expert', but data, model"),
        (
            {"up/w": P(None, None, "model")},
            "shardings: 'up/w' cuts nothing; the largest of what it takes is up/w (6, 16): "
            f"{P(None, None, 'model')} is for more axes, or for the shape of a parameter",
        ),
        (
            {"*": sharding.fully("data")},
            "shardings: '*' cuts nothing; the largest of what it takes is up/w (6, 16): "
            "the devices divide none of its axes, or it has too few numbers",
        ),
    ],
)
def test_rules_that_do_not_fit_are_refused(raises, rules, message):
    tree = {"up": {"w": jax.ShapeDtypeStruct((6, 16), jnp.float32), "b": jax.ShapeDtypeStruct((6,), jnp.float32)}}
    with raises(ValueError, message):
        sharding.shardings(tree, sharding.mesh(data=4, model=2), rules)


MESHES = [{"data": 8}, {"data": 4, "model": 2}, {"model": 8, "data": 1}, {"model": 2, "data": 2, "expert": 2}]


@pytest.mark.slow
@given(st.lists(st.sampled_from([0, 1, 2, 4, 6, 8]), max_size=4), specs, st.sampled_from(MESHES))
def test_each_device_holds_the_part_that_a_spec_says(shape, spec, axes):
    mesh, array = sharding.mesh(**axes), np.arange(np.prod(shape)).reshape(shape).astype(np.float32)
    part = cut(array.shape, spec, mesh)
    if part is None or (any(axes_of(spec)) and len(spec) > len(shape)):
        with pytest.raises(ValueError, match=r"^shardings: (a/w|'w' cuts nothing)"):
            sharding.shardings({"a": {"w": array}}, mesh, {"w": spec})
        return
    lying = jax.device_put(array, sharding.shardings({"a": {"w": array}}, mesh, {"w": spec})["a"]["w"])
    cuts = axes_of(spec) if len(spec) <= len(shape) else []
    shards = {shard.device: shard.data for shard in lying.addressable_shards}
    assert len(shards) == 8
    for place in np.ndindex(mesh.devices.shape):
        at = dict(zip(mesh.axis_names, place, strict=True))
        expected = array
        for axis, names in enumerate(cuts):
            for name in names:  # the first cuts into the largest pieces
                expected = np.split(expected, axes[name], axis)[at[name]] if expected.shape[axis] else expected
        assert expected.shape == part
        np.testing.assert_array_equal(shards[mesh.devices[place]], expected)


@pytest.mark.parametrize("rule", ["data", None, ["data"]])
def test_a_rule_is_a_spec(raises, rule):
    with raises(TypeError, f"shardings: rules are patterns to PartitionSpecs or `fully`, got 'w': {rule!r}"):
        sharding.shardings({"w": jnp.ones(8)}, sharding.mesh(data=8), {"w": rule})


# a memory as long as the axis of down/w that is cut; averages over the rows and over the columns
@pytest.mark.parametrize("optimizer", [jnn.optim.lbfgs(memory=16), optax.adafactor(0.1, min_dim_size_to_factor=4)])
def test_a_spec_is_for_what_has_the_shape_of_the_parameter(optimizer):
    mesh, specs = sharding.mesh(data=1, model=8), {"up/w": P(None, "model"), "down/w": P("model")}
    objective = jnn.supervised(MODEL, jnn.losses.softmax_cross_entropy)
    state = jax.eval_shape(jnn.training(objective, optimizer).init, KEY, DATA)
    placed = jax.tree.leaves(sharding.shardings(state, mesh, specs))
    params, others = jnn.tree.flatten(state.params), 0
    for (path, leaf), lies in zip(jnn.tree.flatten(state).items(), placed, strict=True):
        name = "/".join(path.split("/")[-2:])
        alike = name in specs and leaf.shape == params[name].shape
        others += name in specs and not alike
        assert lies.spec == (specs[name] if alike else P()), path
    assert others


def test_the_paths_of_parameters_in_a_tuple_are_numbers():
    params = jnp.ones(3), jnp.ones((8, 6))
    state = TrainState(params, {}, ({"average": params},), KEY, jnp.zeros((), jnp.int32))
    rule = P("model")
    placed = sharding.shardings(state, sharding.mesh(data=2, model=4), {"average/1": rule})
    assert [lies.spec for lies in placed.opt_state[0]["average"]] == [P(), rule]


def test_a_batch_that_the_devices_do_not_divide_is_refused(raises):
    with raises(ValueError, "shard: 8 devices do not divide a batch of 12 examples"):
        jnn.fit(sharded("mlp", "data parallel"), DATA, key=KEY, steps=1, batch_size=12)


def test_a_stream_wants_a_sharding_that_divides_its_batches(raises):
    mesh = sharding.mesh(data=4, model=2)
    for spec, parts in ((P(("data", "model")), 8), (P("data"), 4)):
        with raises(ValueError, f"stream: {parts} devices do not divide a batch of 14 examples"):
            jnn.data.stream(DATA[0], batch_size=14, sharding=jax.NamedSharding(mesh, spec))
    with raises(TypeError, "stream: sharding must be a NamedSharding of a batch, got Mesh"):
        jnn.data.stream(DATA[0], batch_size=16, sharding=mesh)
    for spec in (P(), P("model")):
        jnn.data.stream(DATA[0], batch_size=14, sharding=jax.NamedSharding(mesh, spec))
