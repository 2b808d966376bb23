import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from experiments import pretrain_gpt
from experiments.pretrain_gpt import PRESETS, flops_per_token, model_of

pytestmark = pytest.mark.slow


def test_it_learns_writes_and_is_given_back_by_the_same_command(quick, tmp_path):
    results = quick("pretrain_gpt", ["losses"])
    assert results["held_out"][-1] < 3.0 < np.log(256) < results["losses"][0] + 0.2
    assert len(results["losses"]) == 200
    assert len(results["held_out"]) == 20
    assert results["tokens_per_second"] > 0
    assert 0 < results["share_of_product_rate"] < 1
    sample, log = (tmp_path / "sample.txt").read_text(), (tmp_path / "checkpoints" / "log.jsonl").read_text()
    assert len(sample) >= 40
    again = quick("pretrain_gpt", ["losses"])
    assert again["losses"] == results["losses"]
    assert (tmp_path / "sample.txt").read_text() == sample
    assert (tmp_path / "checkpoints" / "log.jsonl").read_text() == log


def test_it_reads_any_text_and_any_tokens(quick, tmp_path):
    text = tmp_path / "one.txt"
    text.write_text("the same words again and again, " * 800)
    results = quick("pretrain_gpt", ["losses"], "--text", str(text), "--whole")
    assert results["held_out"][-1] < 0.5
    assert "again and again" in (tmp_path / "sample.txt").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["results"]["options"]["text"] == "one.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --text FILE or --tokens FILE, or try --quick"),
        (["--text", "none.txt"], "none.txt is no file"),
        (["--tokens", __file__], "--tokens wants --vocabulary, the number of different tokens"),
        (["--quick", "--data", "3"], "--data, --model: mesh: {'data': 3, 'model': 1} does not fill the 1 devices: cpu:0"),
    ],
)
def test_what_does_not_do_is_refused_in_a_sentence(arguments, message, tmp_path, raises):
    with raises(pretrain_gpt.InputError, message):
        pretrain_gpt.main([*arguments, "--out", str(tmp_path)])


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
