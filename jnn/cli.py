"""The command line: `jnn compare`, `jnn report` and `jnn summary`."""

import argparse
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jnn import listings
from jnn.comparison.calibration import calibrate
from jnn.comparison.entrants import find_factory, source_hash
from jnn.comparison.errors import CandidateError, InputError, ReportError
from jnn.comparison.grids import verdict_map
from jnn.comparison.imports import imported
from jnn.comparison.plans import make_plan
from jnn.comparison.protocol import run_plan
from jnn.comparison.spaces import parse
from jnn.comparison.store import IDENTITY, digest, identity
from jnn.comparison.suite import DEFAULT_TASKS, SUITE, TASKS
from jnn.data import DataError
from jnn.numbers import whole

DEFAULT_AGAINST = "momentum,optax:adamw,optax:lion"

EPILOG = """examples:
  jnn compare
      momentum, optax's adamw and lion against adam on three tasks, in about a minute
  jnn compare --candidate mine.py:my_optimizer
      your optimizer, a function of learning_rate that returns a pair (init, update), against adam
  jnn compare --candidate mine.py:my_optimizer --against momentum,optax:adamw --space my_optimizer.learning_rate=1e-4:1
      with other opponents and a search space of your own
  jnn compare --candidate mine.py:my_optimizer --vary steps=100,300,1000 --vary batch_size=16,64
      a map of where it wins and where it loses
  jnn compare --candidate mine.py:my_optimizer --dry-run
      what would run, and how long it would take

Stopped by Ctrl-C or killed, the same command goes on where it was.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs `jnn` with these arguments and returns its exit code: 0, 2 for bad input, 130 after Ctrl-C, 1 where the report
    could not be written."""
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    for text in given:
        if text.startswith("--") and text.endswith("=--"):  # argparse takes the value for an empty list
            parser.error(f"{text} gives no value")
    options = parser.parse_args(given)
    try:
        return options.run(options)
    except (InputError, DataError) as error:
        if isinstance(error, CandidateError):
            _print_own_traceback(error.__cause__)
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except ReportError as error:
        print(error.comparison)
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        same = "the same command without --overwrite" if getattr(options, "overwrite", False) else "the same command"
        print(f"{parser.prog}: interrupted; what is finished is kept, and {same} goes on from there", file=sys.stderr)
        return 130


def _print_own_traceback(error: BaseException | None):
    """The traceback from the user's own code on, without what leads there in jnn, jax and the import system."""
    if error is None:
        return
    frames = error.__traceback__
    while frames is not None and _is_foreign(frames.tb_frame.f_code.co_filename) and frames.tb_next is not None:
        frames = frames.tb_next
    traceback.print_exception(type(error), error.with_traceback(frames), frames, chain=False, file=sys.stderr)


def _is_foreign(file: str) -> bool:
    import jax

    import jnn

    packages = [Path(str(module.__file__)).parent for module in (jnn, jax, importlib)]
    return file.startswith("<frozen") or any(Path(file).is_relative_to(package) for package in packages)


def _parser() -> argparse.ArgumentParser:
    import jnn

    parser = argparse.ArgumentParser(prog="jnn", description=jnn.__doc__)
    parser.add_argument("--version", action="version", version=f"jnn {jnn.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "compare",
        help="tune optimizers with equal budgets and judge them against a reference",
        description="Tunes every optimizer on every task with the same budget and judges it against the reference.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--candidate",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="your optimizer: path/to/file.py:name or package.module:name; may be given several times",
    )
    command.add_argument(
        "--against",
        metavar="NAMES",
        help="opponents, with commas: jnn's by name, or optax:NAME (default: the reference alone; without a candidate also "
        f"{DEFAULT_AGAINST})",
    )
    command.add_argument(
        "--reference", default="adam", metavar="NAME", help="whom all are judged against (default: %(default)s)"
    )
    command.add_argument(
        "--tasks",
        default=",".join(DEFAULT_TASKS),
        metavar="NAMES",
        help=f"with commas, from {', '.join(TASKS)}, `suite` for the eight of real data, or your own as path/to/file.py:name "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--size", choices=("quick", "full"), default="quick", help="of the tasks, for a CPU or an accelerator (default: quick)"
    )
    command.add_argument(
        "--trials",
        default="8",
        metavar="N",
        help="search points for each study (default: %(default)s); 8,mine=16 gives one optimizer others",
    )
    command.add_argument(
        "--steps", metavar="N", help="of each training, instead of the task's; 500,mine=250 gives one optimizer others"
    )
    command.add_argument(
        "--unequal", action="store_true", help="allow unequal numbers of trials or steps; the report says so in its headline"
    )
    command.add_argument(
        "--studies", type=int, default=32, help="complete replications, the unit of the statistics (default: %(default)s)"
    )
    command.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="OPTIMIZER.HYPERPARAMETER=LOW:HIGH",
        help="a search space: logarithmic as 1e-4:1, else 0.5:0.99:linear or 0.9:0.999:complement (1 - x is searched on a "
        "logarithmic scale), or one number to fix it; `warmup` is a share of the steps",
    )
    command.add_argument(
        "--wide", action="store_true", help="search all hyperparameters of the table of spaces, not learning rates alone"
    )
    command.add_argument(
        "--margin", type=float, default=0.01, help="the share of the loss that does not matter (default: %(default)s)"
    )
    command.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="SETTING=VALUES",
        help="repeat the comparison over a grid, as in steps=100,300,1000, batch_size=16,64, width=32,128, label_noise=0,0.2 "
        "or trials=2,8, and draw a map of the verdicts; may be given several times",
    )
    command.add_argument(
        "--calibrate",
        type=int,
        nargs="?",
        const=100,
        metavar="COMPARISONS",
        help="compare the reference with itself so many times (100) and print the share of false verdicts",
    )
    command.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    command.add_argument("--out", type=Path, help="folder for report.html and the results (default: one in runs/)")
    command.add_argument("--overwrite", action="store_true", help="replace results that the folder holds")
    command.add_argument("--list", action="store_true", help="print the tasks and the optimizers that can be compared")
    command.add_argument("--dry-run", action="store_true", help="print what would run, and how long it would take")
    command.set_defaults(run=_compare)

    report = commands.add_parser(
        "report",
        help="rebuild a report from stored results, or join those of several folders",
        description="Rebuilds the report of a folder from its results.json. Several folders are joined into one report in "
        "--out; their versions, tasks and protocol must agree.",
    )
    report.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    report.add_argument("--out", type=Path, help="folder for the report (default: the folder itself, if it is one)")
    report.set_defaults(run=_report)

    summary = commands.add_parser(
        "summary",
        help="print a model as a table: shapes, parameters, FLOPs of each layer",
        description="Prints a row for each layer: the shape of its output, its parameters, their bytes, its FLOPs. Nothing is "
        "computed, so a model of any size will do.",
        epilog="examples:\n  jnn summary mine.py:model 1,28,28,1\n  jnn summary mine.py:translator 8,128:int32 8,96:int32\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    summary.add_argument(
        "model",
        metavar="FILE.py:NAME",
        help="path/to/file.py:name or package.module:name of a layer, or of a function that "
        "returns one without being given anything",
    )
    summary.add_argument(
        "inputs",
        nargs="+",
        metavar="SHAPE[:DTYPE]",
        help="of an input, as 1,28,28,1 or 8,128:int32 (default: float32); several are given to the model as a tuple",
    )
    summary.set_defaults(run=_summary)
    return parser


def _compare(options) -> int:
    if options.list:
        _print(listings.available())
        return 0
    against = options.against if options.against is not None else "" if options.candidate else DEFAULT_AGAINST
    if options.calibrate is not None:
        return _calibrate(options)
    optimizers = _optimizers(options.candidate, [options.reference, *_names(against)])
    common = {
        "optimizers": optimizers,
        "tasks": _tasks(options.tasks),
        "size": options.size,
        "reference": options.reference,
        "spaces": _spaces(options.space),
        "studies": options.studies,
        "margin": options.margin,
        "seed": options.seed,
        "wide": options.wide,
    }
    trials = _budget("trials", options.trials, optimizers)
    if options.vary:
        return _map(options, common, trials)
    steps = None if options.steps is None else _budget("steps", options.steps, optimizers)
    plan = make_plan(**common, trials=trials, steps=steps, unequal=options.unequal)
    about = identity(plan)
    out = options.out or Path("runs") / f"compare-{digest(about)}"
    if options.dry_run:
        _print(listings.dry_run(plan, about, out, options.overwrite))
        return 0
    comparison = run_plan(plan, out, options.overwrite, about)
    _print(comparison)
    _say(f"Report: {Path(comparison.folder or out) / 'report.html'}")
    return 0


def _map(options, common: dict, trials) -> int:
    if options.steps is not None or options.unequal or options.dry_run:
        raise InputError("--vary does not go together with --steps, --unequal and --dry-run")
    vary = {}
    for text in options.vary:
        name, equals, values = text.partition("=")
        if not equals or not _names(values):
            raise InputError(f"--vary is given as SETTING=VALUE,VALUE, got {text!r}")
        if name in vary:
            raise InputError(f"--vary {name} is given twice: give all its values at once")
        vary[name] = [_number(name, value) for value in _names(values)]
    sources = [source_hash(factory) for factory in common["optimizers"].values()]
    name = digest({**vars(options), "run": "", "out": "", "overwrite": "", "sources": sources})
    out = options.out or Path("runs") / f"map-{name}"
    found = verdict_map(**common, trials=trials, vary=vary, out=out, overwrite=options.overwrite)
    _print(listings.verdicts(found))
    _say(f"Map: {out / 'map.html'}")
    return 0


def _calibrate(options) -> int:
    if options.candidate or options.against or options.vary:
        raise InputError("--calibrate compares the reference with itself: no candidate, no opponents, no --vary")
    if options.calibrate < 1:
        raise InputError(f"--calibrate must be at least 1, got {options.calibrate}")
    given = {"--steps": options.steps, "--unequal": options.unequal, "--wide": options.wide, "--dry-run": options.dry_run}
    if unused := [name for name, value in given.items() if value]:
        raise InputError(f"--calibrate does not go together with {' and '.join(unused)}")
    spaces = _spaces(options.space)
    if others := [name for name in spaces if name != options.reference]:
        raise InputError(f"--calibrate compares {options.reference} with itself: no space of {' and '.join(others)}")
    found = calibrate(
        find_factory(options.reference),
        _tasks(options.tasks),
        size=options.size,
        space=spaces.get(options.reference, {}),
        comparisons=options.calibrate,
        trials=_number("trials", options.trials),
        studies=options.studies,
        margin=options.margin,
        seed=options.seed,
    )
    _print(listings.calibration(found, options.reference))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        found.to_csv(options.out / "calibration.csv", index=False)
        _say(f"Table: {options.out / 'calibration.csv'}")
    return 0


def _report(options) -> int:
    from jnn.comparison.merging import merge
    from jnn.comparison.report import write_report
    from jnn.comparison.results import Comparison

    if len(options.folders) > 1 and options.out is None:
        raise InputError("several folders are joined into a new one: give --out")
    comparison, *others = [Comparison.load(folder) for folder in options.folders]
    for other in others:
        comparison = merge(comparison, other)
    only = options.folders[0] if options.folders[0].is_dir() else options.folders[0].parent
    out = options.out or only
    if (out / IDENTITY).exists() and (others or out.resolve() != only.resolve()):
        raise InputError(f"{out} holds a comparison of its own: choose another folder")
    write_report(comparison, out)
    _print(comparison)
    _say(f"Report: {out / 'report.html'}")
    return 0


def _summary(options) -> int:
    import jnn

    model = imported(options.model, "layer", _is_model)
    shapes = [_shape(text) for text in options.inputs]
    try:
        if not isinstance(model, tuple) and not inspect.signature(model).parameters:
            model = _made(options.model, model)
        _print(jnn.summary(model, shapes[0] if len(shapes) == 1 else tuple(shapes)))
    except CandidateError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{options.model} with {' '.join(options.inputs)}: {error}") from error
    return 0


def _made(spec: str, make: Callable):
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise CandidateError(f"{spec} raises {type(error).__name__}: {error}") from error


def _is_model(found) -> bool:
    """A layer is a pair of functions; anything else that can be called may return one."""
    return callable(found) or (isinstance(found, tuple) and len(found) == 2 and all(map(callable, found)))


def _shape(text: str):
    import jax
    import jax.numpy as jnp

    sizes, _, dtype = text.partition(":")
    try:
        shape = [whole("summary", "a size", int(size), least=0) for size in _names(sizes)]
        kind = getattr(jnp, dtype or "float32")
        if isinstance(kind, type(jnp.float32)):
            return jax.ShapeDtypeStruct(shape, kind)
    except (AttributeError, ValueError):
        pass
    raise InputError(f"an input is given as SHAPE or SHAPE:DTYPE, as in 1,28,28,1 or 8,128:int32, got {text!r}")


def _print(renderable):
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 110  # of a file or a pipe nothing is known, and 80 columns would leave out half of the table
    console.print(renderable)


def _say(line: str):
    from rich.console import Console

    Console().print(line, soft_wrap=True, highlight=False)


def _budget(name: str, text: str, optimizers: dict[str, Callable]) -> Any:
    """ "8", or "8,mine=16": a number for all, or a dict with one for each."""
    first, *others = _names(text) or [""]
    common = _number(name, first)
    if not others:
        return common
    found = dict.fromkeys(optimizers, common)
    for other in others:
        optimizer, equals, number = other.partition("=")
        if not equals or optimizer not in found:
            raise InputError(f"--{name} is NUMBER or NUMBER,OPTIMIZER=NUMBER for one of {', '.join(optimizers)}, got {other!r}")
        found[optimizer] = _number(name, number)
    return found


def _number(name: str, text: str) -> Any:
    """A whole number, else a real one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InputError(f"{name} takes numbers, got {text!r}")


def _optimizers(candidates: list[str], opponents: list[str]) -> dict:
    """name -> factory: candidates are called by their function, opponents as they were named."""
    found = {name: find_factory(name) for name in dict.fromkeys(opponents)}
    for spec in candidates:
        name = spec.rpartition(":")[2]
        if name in found:
            raise InputError(f"two optimizers are called {name}: give yours another name")
        if ":" not in spec:
            raise InputError(f"a candidate is path/to/file.py:name or package.module:name, got {spec!r}")
        found[name] = find_factory(spec)
    return found


def _spaces(texts: list[str]) -> dict:
    found: dict[str, dict] = {}
    for text in texts:
        target, equals, space = text.partition("=")
        optimizer, dot, hyperparameter = target.rpartition(".")
        if not (equals and dot):
            raise InputError(f"a space is given as OPTIMIZER.HYPERPARAMETER=LOW:HIGH, got {text!r}")
        of_optimizer = found.setdefault(optimizer, {})
        if hyperparameter in of_optimizer:
            raise InputError(f"the space of {target} is given twice")
        of_optimizer[hyperparameter] = parse(space)
    return found


def _tasks(text: str) -> list[str]:
    return [name for given in _names(text) for name in (SUITE if given == "suite" else [given])]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
