import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jnn
from experiments import beginnings, pretrain_gpt
from experiments.gpts import PRESETS, RULES, Preset, flops_per_token, model_of, training_of


@pytest.mark.slow
def test_it_learns_writes_and_is_given_back_by_the_same_command(quick, tmp_path, raises):
    results = quick("pretrain_gpt", ["losses"])
    assert results["held_out"][-1] < 3.0 < np.log(256) < results["losses"][0] + 0.2
    assert len(results["losses"]) == 200
    assert len(results["held_out"]) == 20
    assert results["tokens_per_second"] > 0
    assert 0 < results["share_of_product_rate"] < 1
    sample, log = (tmp_path / "sample.txt").read_text(), (tmp_path / "checkpoints" / "log.jsonl").read_text()
    assert len(sample) >= 40
    assert quick("pretrain_gpt", ["losses"]) == results
    assert (tmp_path / "sample.txt").read_text() == sample
    assert (tmp_path / "checkpoints" / "log.jsonl").read_text() == log
    with raises(
        pretrain_gpt.InputError, f"{tmp_path} holds another run: its steps was 200, here it is 201; give another --out"
    ):
        quick("pretrain_gpt", [], "--steps", "201")


@pytest.mark.slow
def test_it_reads_any_text_and_any_tokens(quick, tmp_path):
    text = tmp_path / "one.txt"
    text.write_bytes("the same words again and again, \xe4\xff ".encode("latin-1") * 800)  # no UTF-8
    results = quick("pretrain_gpt", ["losses"], "--text", str(text), "--whole")
    assert results["held_out"][-1] < 0.5
    assert "again and again" in (tmp_path / "sample.txt").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["results"]["options"]["text"] == "one.txt"


class ReachedError(Exception):
    """The run, whose arguments these are"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Calls the script on a token file up to the run: -> its stream and its arguments"""

    def reached(training, stream, **options):
        raise ReachedError(stream, options)

    monkeypatch.setattr(jnn, "run", reached)
    monkeypatch.setattr(beginnings, "product_rate", lambda: 1.0)

    def plan(tokens, *arguments):
        jnn.data.write_tokens(tmp_path / "tokens", tokens)
        with pytest.raises(ReachedError) as error:
            pretrain_gpt.main(["--tokens", str(tmp_path / "tokens"), "--out", str(tmp_path), *map(str, arguments)])
        return error.value.args

    return plan


@pytest.mark.parametrize("batch", [None, 1, 16, 512])
def test_an_update_is_of_half_a_million_tokens_in_as_many_steps_as_fit(batch, planned):
    stream, options = planned(np.zeros(2**20, int), "--steps", 30, *(() if batch is None else ("--batch", batch)))
    assert stream.batch_size == (batch or 32)
    inputs, _ = stream.source[0]
    assert options["steps"] * stream.batch_size * len(inputs) == 30 * 2**19


def test_quick_is_a_preset_and_a_number_of_steps_where_no_others_are_given(planned):
    tokens = np.zeros(2**20, int)
    for arguments, steps, batch in (
        (["--quick"], 200, 8),
        (["--quick", "--steps", 7, "--batch", 2], 28, 2),
        (["--quick", "--preset", "124M"], 200 * 16, 32),
        (["--preset", "tiny"], 10_000, 8),
    ):
        stream, options = planned(tokens, *arguments)
        assert (options["steps"], stream.batch_size) == (steps, batch)


@pytest.mark.parametrize(("windows", "first"), [(20_000, 19_800), (6400, 6336), (500, 436)])
def test_64_windows_of_the_last_hundredth_are_judged_and_what_is_before_it_is_learned(windows, first, planned):
    tokens = np.append(np.repeat(np.arange(windows), 64), 0)
    stream, options = planned(tokens, "--preset", "tiny", "--vocabulary", 2**16)
    judged = options["eval_data"][0]
    assert judged.shape == (64, 64)
    assert (judged == judged[:, :1]).all()
    assert (judged[0, 0], judged[-1, 0]) == (first, windows - 1)
    assert len(set(judged[:, 0])) == 64
    assert len(stream.source) == first
    assert [stream.source[i][0][0] for i in (0, first - 1)] == [0, first - 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --text FILE or --tokens FILE, or try --quick"),
        (["--text", "none.txt"], "none.txt is no file"),
        (["--quick", "--data", "3"], "--data, --model: mesh: {'data': 3, 'model': 1} does not fill the 1 devices: cpu:0"),
        (
            ["--text", __file__, "--batch", "480"],
            "--batch 480, --data 1, --model 1: they do not divide 512 windows an update, 480 windows a step, 12 heads",
        ),
    ],
)
def test_what_does_not_do_is_refused_in_a_sentence(arguments, message, tmp_path, raises):
    with raises(pretrain_gpt.InputError, message):
        pretrain_gpt.main([*arguments, "--out", str(tmp_path)])


def test_a_batch_that_the_devices_do_not_divide_is_refused_in_a_sentence(tmp_path, raises, monkeypatch):
    mesh = jax.sharding.AbstractMesh((3, 1), ("data", "model"))
    monkeypatch.setattr(pretrain_gpt.sharding, "mesh", lambda **_: mesh)
    message = "--batch 32, --data 3, --model 1: they do not divide 512 windows an update, 32 windows a step, 12 heads"
    with raises(pretrain_gpt.InputError, message):
        pretrain_gpt.main(["--text", __file__, "--out", str(tmp_path)])


@pytest.mark.parametrize(("arguments", "patterns"), [([], {"*"} | RULES.keys()), (["--whole"], RULES.keys())])
def test_what_is_left_over_for_the_model_axis_cuts_its_layers(arguments, patterns, planned, monkeypatch):
    mesh, found = jax.sharding.AbstractMesh((1, 4), ("data", "model")), []
    monkeypatch.setattr(pretrain_gpt.sharding, "mesh", lambda **axes: mesh)
    monkeypatch.setattr(pretrain_gpt.sharding, "shard", lambda _, mesh, rules, **options: found.append(rules))
    planned(np.zeros(2**20, int), "--data", 1, "--model", -1, *arguments)
    assert [rules.keys() for rules in found] == [patterns]


def test_a_text_that_is_too_short_is_refused_in_a_sentence(tmp_path, raises):
    (tmp_path / "text").write_bytes(bytes(64 * 71 + 1))
    with raises(pretrain_gpt.InputError, f"{tmp_path / 'text'}: 71 windows of 64 tokens are too few; 64 are held out"):
        pretrain_gpt.main(["--text", str(tmp_path / "text"), "--preset", "tiny", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    "arguments",
    [["--batch", "0"], ["--batch", "-8"], ["--steps", "0"], ["--vocabulary", "0"], ["--text", "a", "--tokens", "b"]],
)
def test_numbers_below_one_and_two_files_are_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        pretrain_gpt.main([*arguments, "--out", str(tmp_path)])
    assert error.value.code == 2
    end = f"{arguments[1]} is not at least 1" if len(arguments) == 2 else "not allowed with argument --text"
    assert capsys.readouterr().err.endswith(f"argument {arguments[-2]}: {end}\n")


def test_parameters_change_when_all_pieces_of_an_update_are_there_in_a_run_of_one_update_too():
    training = training_of(Preset(1, 8, 2, 4, 4, 2, 3e-3), 5, 1, jnp.float32)
    batch = jnp.ones((2, 4), int), jnp.ones((2, 4), int)
    start = training.init(jax.random.key(0), batch)
    step = jax.jit(training.step)
    flat = lambda train_state: ravel_pytree(train_state.params)[0]
    first, _ = step(start, batch)
    second, _ = step(first, batch)
    np.testing.assert_array_equal(flat(first), flat(start))
    assert np.mean(flat(second) != flat(start)) > 0.9


@pytest.mark.slow
def test_the_presets_are_those_of_gpt_2_and_cost_what_is_published():
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    sizes = {
        name: jnn.summary(model_of(preset, 50257), tokens).total.parameters
        for name, preset in PRESETS.items()
        if name != "tiny"
    }
    assert sizes == {"124M": 124_439_808, "350M": 354_823_168, "1558M": 1_557_611_200}
    # Chowdhery et al. 2022, appendix B: 6 N + 12 L H Q T
    assert flops_per_token(PRESETS["124M"], sizes["124M"]) == 6 * 124_439_808 + 12 * 12 * 12 * 64 * 1024
