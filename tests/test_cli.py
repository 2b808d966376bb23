import json
import subprocess
import sys

import pytest

from jnn import cli

SMALL = ["--studies", "2", "--trials", "1", "--tasks", "digits-linear"]

CANDIDATES = """
import jax
import jax.numpy as jnp


def mine(learning_rate, decay=0.9):
    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(grads, m, params=None):
        m = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, m, grads)
        return jax.tree.map(lambda m: -learning_rate * jnp.sign(m), m), m

    return init, update


def no_pair(learning_rate):
    return 3


def other_shape(learning_rate):
    return (lambda params: ()), lambda g, s, params=None: (jax.tree.map(lambda x: x[None], g), s)


def other_dtype(learning_rate):
    return (lambda params: ()), lambda g, s, params=None: (jax.tree.map(lambda x: x.astype(jnp.float16), g), s)


def nan(learning_rate):
    return (lambda params: ()), lambda g, s, params=None: (jax.tree.map(lambda x: x * jnp.nan, g), s)


def adam(learning_rate):
    return nan(learning_rate)


def raises(learning_rate):
    def update(grads, opt_state, params=None):
        raise KeyError("of the user")

    return (lambda params: ()), update
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CANDIDATES)
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--against", "adamm"], "there is no optimizer 'adamm' in jnn, did you mean adam or adamw"),
        (["--against", "optax:adamww"], "optax has no function 'adamww', did you mean adamw"),
        (["--against", "nowhere:adam"], "there is no module 'nowhere'"),
        (["--against", "adam"], "there is nothing to compare adam with"),
        (["--reference", "sgdd"], "there is no optimizer 'sgdd' in jnn, did you mean sgd?"),
        (["--tasks", "digits-mpl"], "there is no task 'digits-mpl', did you mean digits-mlp"),
        (["--tasks", ""], "tasks must be a list of at least one name"),
        (["--candidate", "mine.py:mime"], "mine.py has no function 'mime', did you mean mine"),
        (["--candidate", "yours.py:mine"], "there is no file yours.py"),
        (["--candidate", "mine"], "a candidate is path/to/file.py:name or package.module:name, got 'mine'"),
        (["--candidate", "mine.py:adam"], "two optimizers are called adam"),
        (["--candidate", "broken.py:mine"], "broken.py does not import: ModuleNotFoundError"),
        (["--candidate", "mine.py:no_pair"], "no_pair returned int, not a pair of functions (init, update)"),
        (["--candidate", "mine.py:other_shape"], "parameters are float32 (10,), updates are float32 (1, 10)"),
        (["--candidate", "mine.py:other_dtype"], "parameters are float32 (10,), updates are float16 (10,)"),
        (["--candidate", "mine.py:raises"], "raises on digits-linear raises KeyError: 'of the user'"),
        (["--candidate", "mine.py:mine", "--space", "mine.rate=1:2"], "mine takes no hyperparameter 'rate'"),
        (["--space", "momentum.learning_rate"], "a space is given as OPTIMIZER.HYPERPARAMETER=LOW:HIGH"),
        (["--space", "momentum.learning_rate=2:1"], "0 < low < high, got 2 and 1"),
        (["--space", "nobody.learning_rate=1:2"], "a space is given for 'nobody'"),
        (["--trials", "0"], "trials must be a whole number of at least 1, got 0"),
        (["--studies", "1"], "studies must be a whole number of at least 2, got 1"),
        (["--margin", "-1"], "margin is a share"),
        (["--out", "mine.py"], "the output folder mine.py cannot be written"),
        (["--trials", "many"], "trials takes numbers, got 'many'"),
        (["--trials", ""], "trials takes numbers, got ''"),
        (["--trials", "2,momentum=3"], "unequal budgets make a comparison unfair: trials adam 2, momentum 3"),
        (["--trials", "2,nobody=3"], "--trials is NUMBER or NUMBER,OPTIMIZER=NUMBER for one of adam, momentum"),
        (["--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["--vary", "steps"], "--vary is given as SETTING=VALUE,VALUE, got 'steps'"),
        (["--vary", "width=8,16"], "digits-linear has no setting 'width'"),
        (["--vary", "steps=10,10"], "vary: steps needs values, each once"),
        (["--vary", "steps=10", "--dry-run"], "--vary does not go together with"),
        (["--space", "sgd.b=1", "--space", "sgd.b=2"], "the space of sgd.b is given twice"),
        (["--candidate", ":mine"], "there is no module ''"),
        (["--candidate", "builtins:dict"], "dict does not say which hyperparameters it takes: write a function that does"),
        (["--candidate", f"{'a' * 300}.py:mine"], f"{'a' * 300}.py"),
        (["--studies", "2147483648"], "studies must be at most 2147483647, got 2147483648"),
        (["--tasks", "quadratic", "--vary", "condition=inf"], "condition must be a finite number of at least 1, got inf"),
        (["--calibrate", "0"], "--calibrate must be at least 1, got 0"),
        (["--calibrate", "2", "--dry-run", "--steps", "3"], "--calibrate does not go together with --steps and --dry-run"),
        (["--calibrate", "2", "--space", "sgd.learning_rate=1:2"], "no space of sgd"),
        (["--vary", "steps=10", "--vary", "steps=20"], "--vary steps is given twice"),
        (["--calibrate", "--against", "sgd"], "--calibrate compares the reference with itself"),
        (["--tasks", "mine.py:none"], "mine.py has no task 'none'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(here, capsys, arguments, words):
    before = sorted(here.rglob("*"))
    assert cli.main(["compare", *SMALL, "--out", "out", *arguments]) == 2
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last.startswith("jnn: ")
    assert words in last
    assert captured.out == ""
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in path.parts] == before


MODELS = """
import jax
import jnn

model = jnn.serial(jnn.conv(8, 3), jax.nn.relu, jnn.flatten(), jnn.dense(10))
two = jnn.serial(jnn.parallel(jnn.dense(3), jnn.dense(3)), jax.numpy.add)
table = jnn.embed(100, 4)


def made():
    return model


def of_width(width):
    return jnn.dense(width)
"""


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["model", "1,28,28,1"], "(1, 28, 28, 8) 80"),  # 3 * 3 * 8 + 8
        (["made", "1,28,28,1"], "(1, 28, 28, 8) 80"),
        (["two", "4,5", "4,6"], "(4, 3), (4, 3) 39"),  # 5 * 3 + 3 and 6 * 3 + 3
        (["table", "2,7:int32"], "(2, 7, 4) 400"),
    ],
)
def test_a_model_is_printed_as_a_table(here, capsys, arguments, words):
    (here / "models.py").write_text(MODELS)
    name, *inputs = arguments
    assert cli.main(["summary", f"models.py:{name}", *inputs]) == 0
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["models.py:modle", "1"], "models.py has no layer 'modle', did you mean model"),
        (["models.py:of_width", "3"], "dense: features must be a whole number"),
        (["models.py:model", "3,x"], "an input is given as SHAPE or SHAPE:DTYPE, as in 1,28,28,1 or 8,128:int32, got '3,x'"),
        (["models.py:model", "3:floaty"], "got '3:floaty'"),
        (["models.py:model", "3:f4,(2"], "got '3:f4,(2'"),
        (["models.py:model", f"{2**31},3"], f"got '{2**31},3'"),
        (["models.py:model", "5"], "models.py:model with 5: conv_0: expected an array (..., height, width, channel)"),
    ],
)
def test_a_model_or_an_input_that_does_not_fit_is_one_sentence(here, capsys, arguments, words):
    (here / "models.py").write_text(MODELS)
    assert cli.main(["summary", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("jnn: ") and words in captured.err
    assert captured.out == ""


def test_a_function_that_raises_instead_of_making_a_model_is_named_with_its_traceback(here, capsys):
    (here / "models.py").write_text("def made():\n    raise KeyError('of the user')\n")
    assert cli.main(["summary", "models.py:made", "3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "jnn: models.py:made raises KeyError: 'of the user'"
    assert lines[0] == "Traceback (most recent call last):"


def test_a_value_that_argparse_would_lose_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare", "--trials=--"])
    assert stopped.value.code == 2
    assert "--trials=-- gives no value" in capsys.readouterr().err


def test_the_users_own_traceback_comes_with_the_sentence(here, capsys):
    cli.main(["compare", *SMALL, "--candidate", "mine.py:raises"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "mine.py" in lines[1]


def test_a_corrupted_data_file_is_named(here, capsys, monkeypatch):
    monkeypatch.setenv("JNN_DATA_DIR", str(here))
    (here / "fashion-mnist").mkdir()
    (here / "fashion-mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"not this")
    assert cli.main(["compare", *SMALL, "--tasks", "digits-linear,fashion-mlp", "--out", "out"]) == 2
    assert "train-images-idx3-ubyte.gz is corrupted: its SHA-256 is" in capsys.readouterr().err
    assert not (here / "out").exists()


def test_a_candidate_is_compared_and_written(here, capsys):
    arguments = ["--candidate", "mine.py:mine", "--candidate", "mine.py:nan", "--space", "mine.learning_rate=1e-3:1e-1"]
    assert cli.main(["compare", *SMALL, *arguments, "--out", "out"]) == 0
    captured = capsys.readouterr()
    assert "Report: out/report.html" in captured.out
    assert "nan 2 of 2 trials and 2 of 2 final runs" in " ".join(captured.out.split())
    assert "6 of 6 trainings" not in captured.out
    results = json.loads((here / "out" / "results.json").read_text())
    assert results["protocol"]["optimizers"]["mine"]["spaces"]["learning_rate"] == {
        "low": 1e-3,
        "high": 0.1,
        "scale": "log",
        "source": "given",
    }
    assert {row["optimizer"] for row in results["verdicts"]} == {"mine", "nan"}

    assert cli.main(["compare", *SMALL, *arguments, "--out", "out"]) == 0  # nothing is left to run
    capsys.readouterr()
    assert cli.main(["compare", *SMALL, *arguments, "--seed", "1", "--out", "out"]) == 2
    assert "out holds another comparison: protocol.seed is 0 and 1" in capsys.readouterr().err

    page = (here / "out" / "report.html").read_text()
    (here / "out" / "report.html").unlink()
    assert cli.main(["report", "out"]) == 0
    assert "Report: out/report.html" in capsys.readouterr().out
    assert (here / "out" / "report.html").read_text() == page


def test_help_names_every_option_and_task(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("--candidate", "--space", "--seed", "--out", "--overwrite", "digits-autoencoder", "fashion-mlp"):
        assert word in text


def test_an_unknown_option_exits_with_2_and_a_module_can_be_run():
    process = subprocess.run([sys.executable, "-m", "jnn.cli", "compare", "--trails", "3"], capture_output=True, text=True)
    assert process.returncode == 2
    assert "--trails" in process.stderr


def test_an_interrupt_exits_with_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_plan", interrupted)
    assert cli.main(["compare"]) == 130
    assert "what is finished is kept" in capsys.readouterr().err


def test_report_joins_folders_of_one_protocol(here, capsys):
    for name in ("momentum", "sgd"):
        assert cli.main(["compare", *SMALL, "--against", name, "--out", name]) == 0
    assert cli.main(["report", "momentum", "sgd"]) == 2
    assert "give --out" in capsys.readouterr().err
    assert cli.main(["report", "momentum", "sgd", "--out", "both"]) == 0
    rows = json.loads((here / "both" / "results.json").read_text())["verdicts"]
    assert [row["optimizer"] for row in rows] == ["momentum", "sgd"]
    assert cli.main(["report", "momentum", "sgd", "--out", "sgd"]) == 2
    assert "sgd holds a comparison of its own: choose another folder" in capsys.readouterr().err
    assert cli.main(["report", "both/results.json"]) == 0
    of_another_seed = json.loads((here / "sgd" / "results.json").read_text())
    of_another_seed["protocol"]["seed"] = 1
    (here / "other").mkdir()
    (here / "other" / "results.json").write_text(json.dumps(of_another_seed))
    capsys.readouterr()
    assert cli.main(["report", "momentum", "other", "--out", "never"]) == 2
    assert "they differ in seed (0 and 1)" in capsys.readouterr().err
    assert not (here / "never").exists()
    assert cli.main(["report", "nowhere"]) == 2
    assert "nowhere cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_list_of_what_can_be_compared(capsys):
    assert cli.main(["compare", "--list"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in ("digits-mlp", "shakespeare-gpt", "optax:adamw", "optax.contrib:muon", "lbfgs", "obj_fn must be provided"):
        assert word in text


def test_a_dry_run_trains_nothing_and_says_how_long(here, capsys):
    assert cli.main(["compare", *SMALL, "--against", "momentum", "--dry-run", "--out", "out"]) == 0
    captured = capsys.readouterr()
    text = " ".join(captured.out.split())
    # the reference has two separate studies as well
    assert "digits-linear adam 8 300" in text
    assert "digits-linear momentum 4 300" in text
    assert "12 trainings; about" in text
    assert not (here / "out").exists()


def test_calibration_prints_the_share_of_false_verdicts(here, capsys):
    assert cli.main(["compare", *SMALL, "--calibrate", "3", "--out", "out"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "adam against itself" in text
    assert "digits-linear 3 " in text
    assert (here / "out" / "calibration.csv").read_text().startswith("task,comparisons,")


def test_a_map_over_a_setting(here, capsys):
    arguments = ["--against", "momentum", "--vary", "steps=20,40", "--out", "map"]
    assert cli.main(["compare", *SMALL, *arguments]) == 0
    assert "Map: map/map.html" in capsys.readouterr().out
    assert (here / "map" / "map.html").exists()
    assert {path.name for path in (here / "map").iterdir() if path.is_dir()} >= {"steps=20", "steps=40"}
