"""The documentation says what is there: its code runs, its reference has every public name, its docstrings are well formed."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jnn
from experiments.gpts import PRESETS

DOCS = Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS))  # Sphinx imports docs/catalogue.py by its name alone, and so do the tests

import catalogue  # noqa: E402  # pyright: ignore[reportMissingImports]

PAGES = {path.stem: path.read_text() for path in sorted((DOCS / "reference").glob("*.md"))}


def documented():
    """page -> names that it shows"""
    found = {}
    for page, text in PAGES.items():
        modules = re.findall(r"^\.\. public:: (\S+)$", text, re.MULTILINE)
        found[page] = [name for module in modules for name in catalogue.public(module)]
    return found


def test_every_public_name_stands_in_the_reference_once():
    shown = [name for names in documented().values() for name in names]
    assert sorted(shown) == sorted(catalogue.everything())
    assert {"jnn.dense", "jnn.compose", "jnn.Layer", "jnn.optim.adam", "jnn.activations.relu"} <= set(shown)


def test_every_page_shows_something_and_is_in_the_contents():
    contents = re.findall(r"^reference/(\w+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert sorted(contents) == sorted(PAGES)
    assert all(documented().values())


def test_every_function_of_jnn_has_a_docstring():
    ours = {name: value for name, value in catalogue.everything().items() if value.__module__.startswith("jnn")}
    assert not [name for name, value in ours.items() if not (value.__doc__ or "").strip()]


def test_docstrings_are_well_formed():
    core = pytest.importorskip("docutils.core", reason="needs the extra docs")
    settings = {"halt_level": 2, "report_level": 5, "syntax_highlight": "none"}
    malformed = {}
    for name, value in {**catalogue.everything(), **catalogue.families()}.items():
        if getattr(value, "__module__", name).startswith("jnn"):
            try:
                core.publish_doctree("\n".join(catalogue.to_rst(value.__doc__)), settings_overrides=settings)
            except Exception as error:
                malformed[name] = str(error)
    assert not malformed


def test_a_docstring_becomes_formula_definitions_code_and_headed_paragraphs():
    text = """(..., in) -> (..., features):  y = x @ w + b_.

    Some *prose* with `w (in, features)`
    and |w|:

        y = f(x)

    features: how many,
        at least 1.
    rate, scale: two numbers.
    Parameters: `w`.
    Raises ValueError where
    it must.
    """
    assert [line for line in catalogue.to_rst(text) if line] == [
        ".. code-block:: text",
        "   :class: formula",
        "   (..., in) -> (..., features):  y = x @ w + b_.",
        "Some \\*prose\\* with \\ ``w (in, features)``\\ ",
        "and \\|w\\|:",
        ".. code-block:: python",
        "   y = f(x)",
        "``features``",
        "    how many,",
        "    at least 1.",
        "``rate``, ``scale``",
        "    two numbers.",
        "**Parameters**: \\ ``w``\\ .",
        "**Raises** ValueError where",
        "it must.",
    ]


def test_fields_come_with_the_comments_beside_them():
    assert catalogue.fields(jnn.TrainState) == [
        "key: PRNG key, the same at every step: step t uses fold_in(key, t)",
        "step: int32 [], the number of steps taken",
    ]


def executed(page):
    """Names and printed or final values of a page's code, cell by cell."""
    cells = re.findall(r"^```\{code-cell\}\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    names, values = {}, []
    for cell in cells:
        tree = ast.parse(cell)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, page, "exec"), names)
        values.append(None if last is None else eval(compile(ast.Expression(last.value), page, "eval"), names))
    return names, values


@pytest.fixture(scope="module")
def page():
    return executed("compose.md")


def test_the_page_data_does_what_it_says(capsys):
    pytest.importorskip("grain", reason="needs grain")
    names, values = executed("data.md")
    said = "digits.idx is cut off at byte 62: its header, uint8 (9, 9), wants 93 bytes"
    assert capsys.readouterr().out == f".../{said}\n"
    accuracy, loss = (value for value in values if isinstance(value, float))
    assert accuracy > 0.9
    assert loss < 0.5
    assert names["whole"].history["loss"][-1] < 3 < names["whole"].history["loss"][0]
    assert [value for value in values if isinstance(value, bool)] == [True]  # what went on is the undisturbed run
    assert values[-1][0].shape == (4, 2)


def test_the_page_compose_a_model_does_what_it_says(page):
    names, values = page
    shared = ["encoder/dense_0/b", "encoder/dense_0/w", "encoder/dense_2/b", "encoder/dense_2/w", "head/b", "head/w"]
    assert shared in values
    accuracy = next(value for value in values if isinstance(value, dict) and "accuracy" in value)["accuracy"]
    assert accuracy > 0.9
    frozen, (first, last) = next(value for value in values if isinstance(value, tuple) and value[0] is True)
    assert frozen
    assert last < first / 2
    assert names["agreement"] > 0.98
    np.testing.assert_allclose(names["together"][1, :3], names["alone"], rtol=1e-5, atol=1e-6)
    assert not np.any(names["weights"][1, 3:])
    first, last = next(value for value in values if isinstance(value, jax.Array) and value.shape == (2,))
    assert last < first / 10
    np.testing.assert_array_equal(names["written"], [np.arange(3, 15) % 10])
    jax.eval_shape(names["task"].objective.init, names["key"], names["task"].load().pool)
    assert "linen_1/batch_norm_0/scale" in values[-2][0]
    assert values[-2][1] == ["linen_1/batch_stats/batch_norm_0/mean", "linen_1/batch_stats/batch_norm_0/var"]


def test_the_page_scaling_computes_the_same_on_as_many_devices_as_there_are():
    _, (same, (devices, whole, parts)) = executed("scaling.md")
    assert same
    assert parts == devices * [(whole[0], whole[1] // devices)]


def test_the_commands_of_the_page_scaling_are_those_of_the_example():
    commands = re.findall(r"pretrain_gpt (--machines[^\"]*?--out \S+)", (DOCS / "scaling.md").read_text().replace("\\\n", ""))
    asked = set(re.findall(r'add_argument\("(--\w+)"', (DOCS.parent / "experiments" / "pretrain_gpt.py").read_text()))
    assert len(commands) == 2
    for command, devices in zip(commands, (4 * 8, 32 // 2), strict=True):  # of v4-32, 32 cores in chips of 2
        assert set(re.findall(r"--\w+", command)) <= asked | {"--out"}
        (batch,) = map(int, re.findall(r"--batch (\d+)", command))
        assert (PRESETS["124M"].update % batch, batch % devices) == (0, 0)
    assert PRESETS["124M"].update * PRESETS["124M"].window == 2**19


def test_what_the_page_scaling_installs_is_what_its_commands_import():
    page = (DOCS / "scaling.md").read_text()
    extras = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = [set(found.split(",")) for found in re.findall(r"/shared/jnn\[([\w,]+)\]", page)]
    assert len(installed) == 2
    for names in installed:
        assert {"data", "runs"} <= names <= extras.keys()
        assert names & {"cuda12", "cuda13", "tpu"}
    (sbatch,) = re.findall(r"#!/bin/bash.*?```", page, re.DOTALL)
    (processors,) = re.findall(r"#SBATCH --cpus-per-task=(\d+)", sbatch)
    assert f"srun --cpus-per-task={processors} " in sbatch


def test_the_page_maps_every_tensor_of_torchvisions_resnet(page, tmp_path):
    names, _ = page
    widths, tensors = {"conv1": (3, 64, 7)}, {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    for stage, (before, width) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        for block, first in enumerate([before, width]):
            here = f"layer{stage}.{block}"
            widths |= {f"{here}.conv1": (first, width, 3), f"{here}.conv2": (width, width, 3)}
            widths |= {f"{here}.downsample.0": (first, width, 1)} if first != width else {}
    for conv, (width_in, width, window) in widths.items():
        norm = conv.replace("conv", "bn").replace("downsample.0", "downsample.1")
        tensors[f"{conv}.weight"] = (width, width_in, window, window)
        tensors |= {f"{norm}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")}
        tensors[f"{norm}.num_batches_tracked"] = ()
    path = tmp_path / "resnet18.safetensors"
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, path)
    (code,) = re.findall(r"^```python\n(names = .*?)^```", (DOCS / "compose.md").read_text(), re.DOTALL | re.MULTILINE)
    exec(code.replace("resnet18.safetensors", str(path)), loaded := {**names})
    assert sum(leaf.size for leaf in jax.tree.leaves(loaded["params"])) == 11_689_512


def test_the_pages_summaries_are_of_its_models(page):
    tables = [value for value in page[1] if isinstance(value, jnn.summaries.Summary)]
    words, deep = tables
    assert words.total.parameters == 1000 * 32 + 32 * 32 + 32
    repeated = next(row for row in deep.rows if row.path == "repeat_1")
    assert repeated.parameters == 12 * (2 * 32 + 32 * 64 + 64 + 64 * 32 + 32)
