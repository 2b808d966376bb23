"""torch is not needed to test jnn: what needs it is skipped without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jnn
from jnn.interop import StateDictError, load_state_dict


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch", reason="torch, whose outputs these are compared with, is not installed")
    module.manual_seed(0)
    return module


def like_of(model, *shape, dtype=jnp.float32):
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))


def shaken(torch, net):
    """The network with numbers in all it has: zeros and ones would hide what is left out."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape) * 0.3
                tensor.copy_(noise.abs() + 0.5 if "running_var" in name else tensor + noise)
    return net.eval()


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def same_outputs(torch, tmp_path, net, model, names, x, to_torch=lambda x: x, from_torch=lambda y: y, **options):
    """Through a file: what torch computes, and jnn with its weights, agree to 1e-5."""
    import safetensors.torch

    net = shaken(torch, net)
    with torch.no_grad():
        expected = from_torch(net(torch.from_numpy(np.ascontiguousarray(to_torch(x)))))
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    like = like_of(model, *x.shape)
    params, state, report = load_state_dict(tmp_path / "net.safetensors", like, names, **options)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), (params, state)) == jax.tree.map(lambda a: (a.shape, a.dtype), like)
    y, _ = jax.jit(model.apply)(params, state, x)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-5, atol=1e-5)
    return report


def test_an_image_network_with_all_kinds_of_convolutions_and_norms(torch, tmp_path):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, (3, 2), stride=2, padding=1, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.PReLU(8),
        torch.nn.Conv2d(8, 8, 3, groups=4, padding=2, dilation=2),
        torch.nn.GroupNorm(2, 8),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 4 * 5, 3),
    )
    model = jnn.serial(
        jnn.conv(8, (3, 2), stride=2, padding=1),
        jnn.batch_norm(),
        jnn.prelu(),
        jnn.conv(8, 3, groups=4, padding=2, dilation=2),
        jnn.group_norm(2),
        jnn.flatten(),
        jnn.dense(3),
    )
    order = np.arange(8 * 4 * 5).reshape(8, 4, 5).transpose(1, 2, 0).ravel()  # torch flattens channels first
    names = {"conv_*": "*", "batch_norm_*": "*", "prelu_*": "*", "group_norm_*": "*"}
    names |= {"dense_6/w": ("6.weight", lambda w: w.T[order]), "dense_6/b": "6.bias"}
    report = same_outputs(torch, tmp_path, net, model, names, numbers(2, 7, 8, 4), lambda x: np.moveaxis(x, -1, 1))
    assert report.ignored == ("1.num_batches_tracked",)
    lines = [" ".join(line.split()) for line in str(report).splitlines()]
    assert lines[0] == "path shape from how"
    assert "conv_0/b (8,) - zeros: the module has no bias" in lines
    assert "conv_0/w (3, 2, 4, 8) 0.weight OIHW -> HWIO" in lines
    assert "batch_norm_1/var (8,) 1.running_var as it is" in lines
    assert lines[-1] == "ignored: 1.num_batches_tracked"


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_and_transposed_ones(torch, tmp_path, axes, groups):
    conv = getattr(torch.nn, f"Conv{axes}d")(4, 6, 3, padding=1, groups=groups)
    transposed = getattr(torch.nn, f"ConvTranspose{axes}d")(6, 4, (3, 2, 4)[:axes], stride=2, padding=1, groups=groups)
    model = jnn.serial(
        jnn.conv(6, (3,) * axes, padding=1, groups=groups),
        up=jnn.conv_transpose(4, (3, 2, 4)[:axes], stride=2, padding=1, groups=groups),
    )
    same_outputs(
        torch,
        tmp_path,
        torch.nn.Sequential(conv, transposed),
        model,
        {"conv_0": "0", "up": ("1", "conv_transpose")},
        numbers(2, *(5, 4, 3)[:axes], 4),
        lambda x: np.moveaxis(x, -1, 1),
        lambda y: torch.moveaxis(y, 1, -1),
    )


RECURRENT = {
    "rnn": ("RNN", jnn.rnn),
    "lstm": ("LSTM", jnn.lstm),
    "gru": ("GRU", lambda features: jnn.gru(features, reset_after=True)),
}


@pytest.mark.parametrize(("name", "make"), RECURRENT.values(), ids=RECURRENT)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_recurrent_networks_of_two_layers(torch, tmp_path, name, make, bias):
    net = getattr(torch.nn, name)(3, 5, num_layers=2, batch_first=True, bias=bias)
    model = jnn.serial(first=make(5), second=make(5))
    names = {"first": "", "second": ":l1"}
    same_outputs(torch, tmp_path, net, model, names, numbers(2, 6, 3), from_torch=lambda y: y[0])


@pytest.mark.parametrize(("name", "make"), RECURRENT.values(), ids=RECURRENT)
def test_recurrent_networks_in_both_directions(torch, tmp_path, name, make):
    net = getattr(torch.nn, name)(3, 5, batch_first=True, bidirectional=True)
    model = jnn.serial(jnn.bidirectional(make(5)))
    same_outputs(torch, tmp_path, net, model, {"bidirectional_0": ""}, numbers(2, 6, 3), from_torch=lambda y: y[0])


@pytest.mark.parametrize(("name", "make"), RECURRENT.values(), ids=RECURRENT)
def test_recurrent_cells(torch, tmp_path, name, make):
    class Steps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = getattr(torch.nn, f"{name}Cell")(3, 5)

        def forward(self, x):
            state, hidden = None, []
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
                hidden.append(state[0] if name == "LSTM" else state)
            return torch.stack(hidden, 1)

    same_outputs(torch, tmp_path, Steps(), jnn.serial(layer=make(5)), {"layer": "cell"}, numbers(2, 4, 3))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_attention(torch, tmp_path, bias):
    net = torch.nn.MultiheadAttention(6, 2, batch_first=True, bias=bias)
    net.forward = lambda x, forward=net.forward: forward(x, x, x, need_weights=False)[0]
    same_outputs(torch, tmp_path, net, jnn.serial(jnn.attention(2)), {"attention_0": ""}, numbers(2, 5, 6))


def test_attention_over_a_memory_of_another_width(torch):
    net = shaken(torch, torch.nn.MultiheadAttention(6, 2, kdim=4, vdim=4, batch_first=True))
    queries, memory = numbers(2, 5, 6), numbers(2, 3, 4)
    model = jnn.attention(2)
    like = jax.eval_shape(model.init, jax.random.key(0), (queries, memory))
    params, state, _ = load_state_dict(net.state_dict(), like, {"": ""})
    with torch.no_grad():
        expected = net(*map(torch.from_numpy, (queries, memory, memory)), need_weights=False)[0].numpy()
    np.testing.assert_allclose(model.apply(params, state, (queries, memory))[0], expected, rtol=1e-5, atol=1e-5)


def test_tokens_norms_and_layers_stacked_by_repeat(torch):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.LayerNorm(6)
            self.attn = torch.nn.MultiheadAttention(6, 2, batch_first=True)
            self.fc = torch.nn.Linear(6, 6)

        def forward(self, x):
            y = self.norm(x)
            return x + self.fc(self.attn(y, y, y, need_weights=False)[0])

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = torch.nn.Embedding(11, 6)
            self.h = torch.nn.ModuleList([Block() for _ in range(3)])
            self.norm = torch.nn.RMSNorm(6, eps=1e-6)
            self.register_buffer("mask", torch.zeros(5, 5))

        def forward(self, tokens):
            x = self.wte(tokens)
            for block in self.h:
                x = block(x)
            return self.norm(x)

    net = shaken(torch, Net())
    block = jnn.residual(jnn.serial(norm=jnn.layer_norm(), attn=jnn.attention(2), fc=jnn.dense(6)))
    model = jnn.serial(wte=jnn.embed(11, 6), repeat=jnn.repeat(block, 3), norm=jnn.rms_norm())
    tokens = np.arange(10).reshape(2, 5)
    like = like_of(model, 2, 5, dtype=jnp.int32)
    names = {"wte": "wte", "repeat/layer/*": "h.{}.*", "norm": "norm"}
    params, state, report = load_state_dict(net.state_dict(), like, names, ignore=("mask",))
    with torch.no_grad():
        expected = net(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(model.apply(params, state, jnp.asarray(tokens, jnp.int32))[0], expected, rtol=1e-5, atol=1e-5)
    assert "h.0.fc.weight, h.1.fc.weight, h.2.fc.weight" in str(report)

    def by_function(path):
        return {"wte": "wte", "norm": "norm"}.get(path) or (
            f"h.{{}}.{path.split('/')[-1]}" if path.startswith("repeat/layer/") else None
        )

    again, _, _ = load_state_dict(net.state_dict(), like, by_function, ignore=("mask",))
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_torch_in_bfloat16_becomes_the_dtype_of_the_model(torch):
    net = torch.nn.Linear(4, 3).to(torch.bfloat16)
    model = jnn.dense(3)
    params, _, _ = load_state_dict(net.state_dict(), like_of(model, 2, 4), {"": ""})
    assert params["w"].dtype == jnp.float32
    np.testing.assert_array_equal(params["w"], net.weight.detach().float().numpy().T)


# ---- without torch


MODEL = jnn.serial(jnn.dense(3), jnn.batch_norm(), jnn.dense(2))


def state_dict(**changes):
    tensors = {
        "fc1.weight": numbers(3, 4),
        "fc1.bias": numbers(3),
        "bn.weight": numbers(3),
        "bn.bias": numbers(3),
        "bn.running_mean": numbers(3),
        "bn.running_var": numbers(3),
        "bn.num_batches_tracked": np.zeros((), np.int64),
        "fc2.weight": numbers(2, 3),
        "fc2.bias": numbers(2),
    }
    tensors |= {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in tensors.items() if array is not None}


NAMES = {"dense_0": "fc1", "batch_norm_1": "bn", "dense_2": "fc2"}


def test_every_array_comes_from_the_tensor_that_the_names_say(tmp_path):
    safetensors.numpy.save_file(state_dict(), tmp_path / "net.safetensors")
    params, state, report = load_state_dict(tmp_path / "net.safetensors", like_of(MODEL, 2, 4), NAMES)
    given = state_dict()
    np.testing.assert_array_equal(params["dense_0"]["w"], given["fc1.weight"].T)
    np.testing.assert_array_equal(params["dense_2"]["b"], given["fc2.bias"])
    np.testing.assert_array_equal(params["batch_norm_1"]["scale"], given["bn.weight"])
    np.testing.assert_array_equal(state["batch_norm_1"]["var"], given["bn.running_var"])
    assert [match.path for match in report.matches][:2] == ["batch_norm_1/bias", "batch_norm_1/scale"]


def test_single_arrays_are_named_by_themselves():
    names = {
        "dense_0/w": ("fc1.weight", np.transpose),
        "dense_0/b": ("fc1.bias", "fc1.bias", np.add),
        "dense_2/w": ("fc2.weight", np.transpose),
        "dense_2/b": "fc2.bias",
        "batch_norm_1": "bn",
    }
    params, _, report = load_state_dict(state_dict(), like_of(MODEL, 2, 4), names)
    np.testing.assert_array_equal(params["dense_0"]["b"], 2 * state_dict()["fc1.bias"])
    np.testing.assert_array_equal(params["dense_2"]["w"], state_dict()["fc2.weight"].T)
    assert "fc1.bias, fc1.bias" in str(report)


def test_every_mismatch_is_named_at_once(raises):
    tensors = state_dict(fc1__weight=numbers(5, 4), bn__running_var=None, head__weight=numbers(1, 2), fc2__bias=numbers(3))
    names = {"dense_0": "fc1", "batch_norm_1": "bn", "dense_2": "fc2", "dens_3": "fc3"}
    message = (
        "the state dict does not fit the model:\n"
        "  dens_3: the model has no such path; did you mean dense_2 or dense_0?\n"
        "  dense_0/w: expected (4, 3), got (4, 5) from 'fc1.weight' (5, 4)\n"
        "  dense_2/b: expected (2,), got (3,) from 'fc2.bias' (3,)\n"
        "  batch_norm_1/var (3,): 'bn.running_var' not in the state dict\n"
        "  'head.weight' (1, 2): not used"
    )
    with raises(StateDictError, message) as error:
        load_state_dict(tensors, like_of(MODEL, 2, 4), names)
    assert len(error.value.problems) == 5


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        (
            {"dense_0": "fc1", "batch_norm_1": "bn"},
            [
                "dense_2/b (2,): no source in names",
                "dense_2/w (3, 2): no source in names",
                "'fc2.weight' (2, 3): not used",
                "'fc2.bias' (2,): not used",
            ],
        ),
        (
            {**NAMES, "dense_2": "fc_2"},
            [
                "dense_2/b (2,): 'fc_2.bias' not in the state dict",
                "dense_2/w (3, 2): 'fc_2.weight' not in the state dict",
                "'fc2.weight' (2, 3): not used",
                "'fc2.bias' (2,): not used",
            ],
        ),
        ({**NAMES, "dense_0/w": ("fc1.weight", np.transpose)}, ["dense_0/w: named twice, fc1.weight and fc1.weight"]),
        (
            {**NAMES, "dense_0": "fc1", "dense_2/b": "fc2.bias", "dense_2/w": ("fc2.weight", np.transpose), "dense_2": 2},
            ["dense_2: expected the name of a module, or a tuple that begins with one, got 2"],
        ),
        (
            {**NAMES, "": "net"},
            [": no layer that torch has, with batch_norm_1, dense_0, dense_2: name its layers, or its arrays one by one"],
        ),
        (
            {**NAMES, "dense_2": ("fc2", "upside_down")},
            [
                "dense_2: expected a module, or (module, 'conv_transpose'), got ('fc2', 'upside_down')",
                "dense_2/b (2,): no source in names",
                "dense_2/w (3, 2): no source in names",
                "'fc2.weight' (2, 3): not used",
                "'fc2.bias' (2,): not used",
            ],
        ),
    ],
    ids=["not-named", "misspelt", "twice", "number", "root", "layout"],
)
def test_names_that_do_not_fit(names, problems):
    with pytest.raises(StateDictError) as error:
        load_state_dict(state_dict(), like_of(MODEL, 2, 4), names)
    assert list(error.value.problems) == problems


def test_the_gru_of_chung_has_no_counterpart_in_torch():
    model = jnn.serial(jnn.gru(2))
    with pytest.raises(StateDictError, match=r"gru_0: torch's GRU is gru\(features, reset_after=True\)"):
        load_state_dict({}, like_of(model, 3, 4), {"gru_0": "gru"})


def test_a_convolution_given_a_matrix_and_integers_are_refused():
    model = jnn.serial(jnn.conv(2, 3), jnn.flatten(), jnn.dense(2))
    like = like_of(model, 1, 3, 3, 1)
    weights = {
        "conv.weight": numbers(2, 9),
        "conv.bias": numbers(2),
        "fc.weight": np.zeros((2, 18), np.int32),
        "fc.bias": numbers(2),
    }
    with pytest.raises(StateDictError) as error:
        load_state_dict(weights, like, {"conv_0": "conv", "dense_2": "fc"})
    assert error.value.problems[0].startswith("conv_0/w: expected (3, 3, 1, 2), got (9, 2) from 'conv.weight' (2, 9)")
    assert error.value.problems[1] == "dense_2/w: expected float32, got int32 from 'fc.weight' (2, 18)"


def test_one_pattern_to_ignore_is_not_read_letter_by_letter():
    # the last letter of "fc2.*" alone would ignore whatever is left
    names = {"dense_0": "fc1", "batch_norm_1": "bn"}
    like = like_of(jnn.serial(jnn.dense(3), jnn.batch_norm()), 2, 4)
    assert load_state_dict(state_dict(), like, names, ignore="fc2.*").report.ignored[1:] == ("fc2.weight", "fc2.bias")
    with pytest.raises(StateDictError, match=r"'fc2\.weight' \(2, 3\): not used"):
        load_state_dict(state_dict(), like, names, ignore="head.*")


def test_a_model_in_place_of_its_parameters_is_refused(raises):
    problem = "expected like to be (params, state), as jax.eval_shape(model.init, key, x) gives them, got Layer"
    with raises(TypeError, f"load_state_dict: {problem}"):
        load_state_dict(state_dict(), MODEL, NAMES)


def test_more_stars_than_the_path_has(raises):
    with raises(ValueError, "load_state_dict: 'fc*.*' has more * than 'dense_*'"):
        load_state_dict(state_dict(), like_of(MODEL, 2, 4), {"dense_*": "fc*.*"})
