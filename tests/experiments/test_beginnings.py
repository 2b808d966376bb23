import json

import numpy as np
import pytest

from experiments import beginnings
from jnn.checkpoints.manifests import NAME
from jnn.comparison.errors import InputError
from jnn.data import Tokens, write_tokens

ASKED = {"text": "one", "steps": 40}


@pytest.fixture
def rates(monkeypatch):
    """What the devices do, one number after another"""
    found = iter(range(1, 10))
    monkeypatch.setattr(beginnings, "product_rate", lambda: next(found))


def kept(out, step):
    """As a run leaves a checkpoint"""
    folder = out / "checkpoints" / f"{step:09d}"
    folder.mkdir(parents=True)
    (folder / NAME).write_text("")


def test_the_rate_is_of_the_devices_that_take_the_last_steps(rates, tmp_path):
    assert beginnings.begun(tmp_path, ASKED, 80) == {"asked": ASKED, "step": 0, "product_rate": 1}
    kept(tmp_path, 30)
    kept(tmp_path, 60)
    assert beginnings.begun(tmp_path, ASKED, 80) == {"asked": ASKED, "step": 60, "product_rate": 2}
    kept(tmp_path, 80)
    for _ in range(2):  # at its end
        assert beginnings.begun(tmp_path, ASKED, 80) == {"asked": ASKED, "step": 60, "product_rate": 2}
    assert json.loads((tmp_path / "run.json").read_text())["product_rate"] == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"text": "two"}, "its text was one, here it is two"), ({"steps": 41}, "its steps was 40, here it is 41")],
)
def test_another_run_in_the_same_folder_is_refused_once_the_first_has_a_checkpoint(asked, said, rates, tmp_path, raises):
    beginnings.begun(tmp_path, {**ASKED, **asked}, 40)
    beginnings.begun(tmp_path, ASKED, 40)  # the first one failed before it had anything to lose
    kept(tmp_path, 20)
    before = (tmp_path / "run.json").read_text()
    with raises(InputError, f"{tmp_path} holds another run: {said}; give another --out"):
        beginnings.begun(tmp_path, {**ASKED, **asked}, 40)
    assert (tmp_path / "run.json").read_text() == before


def test_texts_are_told_apart_by_length_and_content(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 99, 5000)
    other = tokens.copy()
    other[2500] += 1
    found = []
    for name, text in (("one", tokens), ("copy", tokens), ("other", other), ("shorter", tokens[:-1])):
        write_tokens(tmp_path / name, text)
        found.append(beginnings.fingerprint(Tokens(tmp_path / name, 10)))
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert found[0].startswith("5000 tokens, checksum ")


def test_the_rate_of_a_product_is_that_of_its_operations(monkeypatch):
    # five seconds for four products of 512 x 512, each number of 512 products and sums
    monkeypatch.setattr(beginnings.timeit, "repeat", lambda *_, **__: [7.0, 5.0])
    assert beginnings.product_rate() == 4 * 512 * 512 * (512 + 512) / 5.0
