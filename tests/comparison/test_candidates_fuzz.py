"""Whatever is asked for on the command line and by `compare`: an InputError of one sentence, or what was written."""

import contextlib
import importlib.util
import itertools
import math
import re
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from arbitrary import JUNK, mutated
from hypothesis import given
from hypothesis import strategies as st

import jnn
from jnn import cli
from jnn.comparison import calibration, entrants, grids, imports, plans, spaces
from jnn.comparison.errors import CandidateError, InputError
from jnn.data import DataError

from tiny import tiny_task

TINY, MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

# Search spaces


def is_number(value) -> bool:
    return math.isfinite(value) and (value == 0 or TINY <= abs(value) <= MOST)


def fits(low, high, scale) -> bool:
    if not (is_number(low) and is_number(high)):
        return False
    return {"log": 0 < low < high, "linear": low < high, "complement": low < high < 1, "fixed": low == high}[scale]


def space_of(text: str):
    """(low, high, scale), or None where there is none."""
    parts = text.split(":")
    scale = "fixed" if len(parts) == 1 else "log" if len(parts) == 2 else parts[2]
    if len(parts) > 3 or scale not in ("log", "linear", "complement", "fixed") or (scale == "fixed" and len(parts) > 1):
        return None
    try:
        low, high = float(parts[0]), float(parts[min(len(parts) - 1, 1)])
    except ValueError:
        return None
    return (low, high, scale) if fits(low, high, scale) else None


def text_of(low, high, scale, short=True) -> str:
    if scale == "fixed":
        return f"{low!r}"
    return f"{low!r}:{high!r}" if short and scale == "log" else f"{low!r}:{high!r}:{scale}"


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
LIMITS = (
    FLOATS
    | st.floats(TINY, 1)
    | st.floats(-1e3, 1e3).filter(lambda x: abs(x) >= TINY)
    | st.sampled_from([0.0, 1.0, 1e-4, 0.9, TINY, MOST, -MOST])
)
NUMBERS = st.sampled_from(["1e-4", "1", "0.5", "-1", "0", "nan", "inf", "-inf", "1e400", "1e-400", "1_0", "٣", " 2", ""])
SPACES = st.builds(
    lambda parts, end: ":".join([*parts, *end]),
    st.lists(NUMBERS | LIMITS.map(repr), min_size=1, max_size=3),
    st.lists(st.sampled_from(["log", "linear", "complement", "fixed", "Log", ""]), max_size=1),
)
SPACES |= st.builds(
    lambda limits, scale: text_of(*sorted(limits), scale), st.tuples(LIMITS, LIMITS), st.sampled_from(["log", "linear"])
)
KINDS = {"log": spaces.log_uniform, "linear": spaces.uniform, "complement": spaces.complement_log_uniform}


@given(SPACES | mutated(SPACES) | st.text(max_size=12))
def test_a_space_of_any_text(text):
    wanted = space_of(text)
    try:
        found = spaces.parse(text)
    except InputError as error:
        assert wanted is None
        assert "\n" not in str(error)
    else:
        assert found[:3] == wanted


@given(
    LIMITS,
    LIMITS,
    st.sampled_from([*KINDS, "log", "fixed"]),
    st.booleans(),
    st.lists(st.floats(0, 1), min_size=2, max_size=4).map(sorted),
)
def test_a_space_comes_back_from_its_text_and_holds_what_is_drawn_from_it(low, high, scale, short, points):
    low, high = (low, low) if scale == "fixed" else sorted((low, high))
    if not fits(low, high, scale):
        return
    space = spaces.parse(text_of(low, high, scale, short))
    assert space[:3] == (low, high, scale)
    if scale != "fixed":
        assert KINDS[scale](low, high) == space
    drawn = [space.value(u) for u in points]
    size = max(abs(low), abs(high), 1.0 if scale == "complement" else 0.0)
    for first, second in itertools.pairwise(drawn):
        assert first <= second + 1e-12 * size
    assert all(low - 1e-12 * size <= value <= high + 1e-12 * size for value in drawn)
    assert np.isfinite(np.float32(drawn)).all()


@given(st.sampled_from([*KINDS]), JUNK | LIMITS, JUNK | LIMITS)
def test_limits_of_any_kind(scale, low, high):
    try:
        found = KINDS[scale](low, high)
    except InputError as error:
        assert len(str(error)) < 300
    else:
        assert (found.low, found.high) == (float(low), float(high))
        assert fits(found.low, found.high, scale)


# Names of factories

MINE = """
def mine(learning_rate):
    raise AssertionError


other, none = mine, None
"""
CODE = {"mine.py": MINE, "raises.py": "raise KeyError('of the user')\n", "exits.py": "raise SystemExit\n"}
LIBRARIES = {"optax": optax, "optax.contrib": optax.contrib}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working folder with candidates, without data, where nothing but optax can be imported by name."""
    folder = tmp_path_factory.mktemp("candidates")
    for name, code in CODE.items():
        (folder / name).write_text(code)

    def imported(name):
        if name in LIBRARIES:
            return LIBRARIES[name]
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("JNN_DATA_DIR", raising=False)
        patch.syspath_prepend(folder)
        patch.setattr(imports, "importlib", types.SimpleNamespace(import_module=imported, util=importlib.util))
        yield folder


FACTORIES = st.sampled_from(
    ["adam", "optax:adamw", "optax.contrib:muon", "mine.py:mine", "./mine.py:other", "mine.py:none", "raises.py:a"]
)


def factory_of(spec: str):
    """The function that is called so; None where there is none. CandidateError where the user's code raises."""
    if ":" not in spec:
        known = set(jnn.optim.__all__) - entrants.NOT_OPTIMIZERS
        return getattr(jnn.optim, spec) if spec in known else None
    module, _, name = spec.rpartition(":")
    if module in LIBRARIES:
        return getattr(LIBRARIES[module], name, None)
    path = Path(module)
    if module.endswith(".py") and "\0" not in module and len(module) < 255 and path.is_file():
        return CandidateError if path.name != "mine.py" else {"mine": "mine", "other": "mine"}.get(name)
    return None


@given(FACTORIES | mutated(FACTORIES) | st.text(max_size=9) | st.integers(200, 5000).map(lambda n: "a" * n + ".py:adam"))
def test_a_factory_of_any_name(here, spec):
    wanted = factory_of(spec)
    try:
        found = entrants.find_factory(spec)
    except InputError as error:
        assert wanted is CandidateError if isinstance(error, CandidateError) else not callable(wanted) and wanted != "mine"
    else:
        assert found is wanted or found.__name__ == wanted


@given(
    st.sampled_from([jnn.optim.adam, optax.sgd, dict, int, math.hypot, type, print, max, tiny_task]) | JUNK,
    st.dictionaries(st.sampled_from(["learning_rate", "b1", "warmup", "", "steps", 3, None]), JUNK | LIMITS, max_size=2),
    st.booleans(),
)
def test_a_factory_of_any_kind_with_any_space(factory, space, wide):
    try:
        entrant = entrants.enter("mine", factory, space, wide=wide)
    except InputError as error:
        assert "mine" in str(error) or "a fixed hyperparameter" in str(error)
    else:
        assert callable(factory)
        assert space.keys() <= entrant.space.keys()
        for name, value in space.items():
            assert entrant.space[name] == (float(value), float(value), "fixed", "given")


# The whole command line


class Planned(Exception):  # noqa: N818  no error: how the tests stop where training would begin
    pass


@pytest.fixture(scope="module")
def planned(here):
    """`jnn` up to where something would run: Planned holds the plans, and what was asked for."""
    real = plans.make_plan

    def make_plan(*args, **options):
        plan = real(*args, **options)
        raise Planned(plan, options)

    def run_plan(plan, *args):
        raise Planned(plan, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "takes_traced", lambda *args: True)  # a second for each optimizer
        patch.setattr(plans, "schedule_of", lambda *args: "the task's")
        patch.setattr(plans, "evaluates_within_a_step", lambda *args: False)
        patch.setattr(cli, "make_plan", make_plan)
        patch.setattr(calibration, "make_plan", make_plan)
        patch.setattr(grids, "run_plan", run_plan)
        yield


def plan_of(arguments, capsys):
    """The plan and what was asked for, or None after one sentence."""
    try:
        code = cli.main(["compare", *arguments])
    except Planned as found:
        return found.args
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2
    assert re.search(r"^jnn( compare)?: ", capsys.readouterr().err, re.MULTILINE)
    return None


NAMES = ["adam", "momentum", "optax:adamw", "optax.contrib:muon"]
SIZES = ["0", "-1", "1.5", "inf", "nan", "2147483647", "2147483648", "1_0", "٣", "1e3", "a", ""]
SIZES += ["9" * 30, "9" * 400, "9" * 5000]
VARIED = ["steps=10,20", "dimensions=2,9", "steps=", "steps", "=3", "condition=1e9,10", "trials=2,8", "studies=1", "width=3"]
HYPERPARAMETERS = st.sampled_from(["learning_rate", "b1", ""])
TEXTS = {
    "--candidate": FACTORIES,
    "--against": st.lists(FACTORIES, max_size=2).map(",".join),
    "--reference": FACTORIES,
    "--tasks": st.sampled_from(["rosenbrock", "quadratic,rosenbrock", "", ",", "mine.py:mine", "optax:adam"]),
    "--size": st.sampled_from(["quick", "full", ""]),
    "--trials": st.sampled_from([*SIZES, "8", "8,adam=8", "8,adam=3", "2,=3", "2,adam=", "2,adam=3,adam=4"]),
    "--steps": st.sampled_from([*SIZES, "300", "300,adam=20"]),
    "--studies": st.sampled_from([*SIZES, "2", "1"]),
    "--margin": st.sampled_from([*SIZES, "0.01", "1", "-0.0", "1e-400"]),
    "--seed": st.sampled_from([*SIZES, "4294967295", "4294967296"]),
    "--space": st.builds("{}.{}={}".format, st.sampled_from([*NAMES, "", "a.b"]), HYPERPARAMETERS, SPACES),
    "--vary": st.sampled_from(VARIED)
    | st.builds("{}={}".format, st.sampled_from(["steps", "dimensions", "condition", "trials"]), st.sampled_from(SIZES)),
    "--calibrate": st.sampled_from([*SIZES, "1"]),
}


@given(
    st.sampled_from(sorted(TEXTS)).flatmap(lambda name: st.tuples(st.just(name), TEXTS[name] | mutated(TEXTS[name]))),
    st.sampled_from(sorted(TEXTS)).flatmap(lambda name: st.tuples(st.just(name), TEXTS[name])) | st.none(),
)
def test_any_command_line_is_planned_or_refused(planned, capsys, first, second):
    given = {"--against": "momentum", "--tasks": "quadratic", "--trials": "2"} | dict(filter(None, [second, first]))
    if "--calibrate" in given and not {"--against"} & {first[0], second[0] if second else ""}:
        del given["--against"]
    plan_of([f"{name}={text}" for name, text in given.items()], capsys)


@given(
    opponents=st.lists(st.sampled_from(NAMES[1:]), unique=True, min_size=1),
    mine=st.booleans(),
    given=st.dictionaries(
        st.tuples(st.sampled_from(NAMES), st.just("learning_rate") | st.just("warmup")),
        st.tuples(LIMITS, LIMITS, st.sampled_from([*KINDS, "fixed"])).filter(lambda s: s[2] == "fixed" or fits(*s)),
        max_size=3,
    ),
    trials=st.integers(1, 2**31 - 1),
    others=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 99), max_size=2),
    steps=st.none() | st.integers(20, 2**31 - 1),
    studies=st.integers(2, 2**31 - 1),
    margin=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**32 - 1),
    tasks=st.lists(st.sampled_from(["quadratic", "rosenbrock", "noisy-quadratic"]), unique=True, min_size=1),
    space=st.sampled_from(["", " "]),
)
def test_a_command_line_says_what_was_written(
    planned, capsys, opponents, mine, given, trials, others, steps, studies, margin, seed, tasks, space
):
    optimizers = ["adam", *opponents] + ["mine"] * mine
    given = {names: s for names, s in given.items() if names[0] in optimizers}
    others = {name: number for name, number in others.items() if name in optimizers}
    arguments = [f"--against={f'{space},{space}'.join(opponents)}", f"--tasks={f'{space},'.join(tasks)}", "--unequal"]
    arguments += [f"--trials={','.join([str(trials), *(f'{name}={number}' for name, number in others.items())])}"]
    arguments += [f"--studies={studies}", f"--margin={margin!r}", f"--seed={seed}"]
    arguments += [] if steps is None else [f"--steps={steps}"]
    arguments += ["--candidate=mine.py:mine"] * mine
    for (name, hyperparameter), (low, high, scale) in given.items():
        arguments.append(f"--space={name}.{hyperparameter}={text_of(low, high, scale)}")
    found = plan_of(arguments, capsys)
    assert found is not None
    plan, _ = found
    assert [entrant.name for entrant in plan.entrants] == optimizers
    assert [task.name for task in plan.tasks] == tasks
    assert (plan.studies, plan.margin, plan.seed, plan.reference) == (studies, margin, seed, "adam")
    for entrant in plan.entrants:
        assert entrant.trials == others.get(entrant.name, trials)
        for name, searched in entrant.space.items():
            low, high, scale = given.get((entrant.name, name), (None, None, None))
            if scale is not None:
                assert searched == (low, low if scale == "fixed" else high, scale, "given")
    for task in plan.tasks:
        assert all(plans.for_entrant(task, entrant).steps == (steps or task.steps) for entrant in plan.entrants)


OPTIMIZERS = {"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}
CALL = {
    "optimizers": OPTIMIZERS,
    "tasks": [tiny_task()],
    "reference": "adam",
    "spaces": {},
    "trials": 2,
    "studies": 2,
    "margin": 0.01,
    "seed": 0,
    "steps": None,
    "unequal": False,
    "wide": False,
    "size": "quick",
}
NESTED = st.builds(lambda name, value: {name: value}, st.sampled_from(["adam", "sgd", "nobody", 3]), JUNK)
NESTED |= st.builds(lambda name, value: {"adam": {name: value}}, st.sampled_from(["learning_rate", "b1", 3]), JUNK)


@given(
    st.sampled_from([name for name in CALL if name not in ("unequal", "wide")]),
    JUNK | NESTED | st.builds(list, JUNK.map(lambda x: [x])),
)
def test_a_call_with_anything_is_planned_or_refused(planned, name, value):
    try:
        plan = plans.make_plan(**{**CALL, name: value})
    except (InputError, DataError) as error:
        assert len(str(error)) < 700
    else:
        assert plan.studies >= 2 and 0 <= plan.margin < 1 and 0 <= plan.seed < 2**32
        assert {entrant.name for entrant in plan.entrants} == {"adam", "sgd"}
        assert all(1 <= entrant.trials < 2**31 for entrant in plan.entrants)


# Inputs of `jnn summary`

DTYPES = ["float32", "bfloat16", "int32", "uint8", "bool", "complex64", "float16"]
KINDS_OF_NUMBER = ["", ":", *[f":{name}" for name in DTYPES], ":O", ":f4,f4", ":a,,b", ":f4,(2", ":(", ":M8[s]", ":S3", ":{}"]
SHAPES = st.builds(
    lambda sizes, dtype: ",".join(sizes) + dtype,
    st.lists(st.sampled_from([*SIZES, "1", "28", " 2"]), max_size=4),
    st.sampled_from(KINDS_OF_NUMBER),
)


@given(SHAPES | mutated(SHAPES) | st.text(max_size=9))
def test_an_input_of_any_text(text):
    sizes, _, dtype = text.partition(":")
    wanted = None
    with contextlib.suppress(ValueError):
        wanted = [int(size) for size in sizes.split(",") if size.strip()]
    if wanted is not None and not all(0 <= size < 2**31 for size in wanted):
        wanted = None
    try:
        found = cli._shape(text)
    except InputError as error:
        assert text[:9] in str(error) or repr(text)[:9] in str(error)
        assert wanted is None or dtype not in ("", *DTYPES)
    else:
        assert list(found.shape) == wanted
        assert jnp.issubdtype(found.dtype, jnp.number) or found.dtype == bool
        if dtype in DTYPES:
            assert found.dtype == jnp.dtype(dtype)
