"""The command line: `jnn compare`."""

import argparse
import importlib
import sys
import traceback
from datetime import datetime
from pathlib import Path

from jnn.comparison.entrants import find_factory
from jnn.comparison.errors import CandidateError, InputError, ReportError
from jnn.comparison.protocol import compare
from jnn.comparison.spaces import parse
from jnn.comparison.suite import DEFAULT_TASKS, TASKS
from jnn.data import DataError

DEFAULT_AGAINST = "momentum,optax:adamw,optax:lion"

EPILOG = """examples:
  jnn compare
      momentum, optax's adamw and lion against adam on three tasks, in about a minute
  jnn compare --candidate mine.py:my_optimizer
      your optimizer, a function of learning_rate that returns a pair (init, update), against adam
  jnn compare --candidate mine.py:my_optimizer --against momentum,optax:adamw --space my_optimizer.learning_rate=1e-4:1
      with other opponents and a search space of your own
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs `jnn` with these arguments and returns its exit code: 0, 2 for bad input, 130 after Ctrl-C, 1 where the report
    could not be written."""
    parser = _parser()
    options = parser.parse_args(arguments)
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
        print(f"{parser.prog}: interrupted; nothing has been written", file=sys.stderr)
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
        help=f"with commas, from {', '.join(TASKS)} (default: %(default)s)",
    )
    command.add_argument("--trials", type=int, default=8, help="search points for each study (default: %(default)s)")
    command.add_argument(
        "--studies", type=int, default=32, help="complete replications, the unit of the statistics (default: %(default)s)"
    )
    command.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="OPTIMIZER.HYPERPARAMETER=LOW:HIGH",
        help="a search space: logarithmic as 1e-4:1, else 0.5:0.99:linear, or one number to fix it",
    )
    command.add_argument(
        "--margin", type=float, default=0.01, help="the share of the loss that does not matter (default: %(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    command.add_argument("--out", type=Path, help="folder for report.html and the results (default: a new one in runs/)")
    command.add_argument("--overwrite", action="store_true", help="replace results that the folder holds")
    command.set_defaults(run=_compare)
    return parser


def _compare(options) -> int:
    from rich.console import Console

    out = options.out or _new_folder(Path("runs") / datetime.now().strftime("compare-%Y-%m-%d-%H%M%S"))
    against = options.against if options.against is not None else "" if options.candidate else DEFAULT_AGAINST
    optimizers = _optimizers(options.candidate, [options.reference, *_names(against)])
    comparison = compare(
        optimizers,
        _names(options.tasks),
        reference=options.reference,
        spaces=_spaces(options.space),
        trials=options.trials,
        studies=options.studies,
        margin=options.margin,
        seed=options.seed,
        out=out,
        overwrite=options.overwrite,
    )
    console = Console()
    if not console.is_terminal:
        console.width = 110  # of a file or a pipe nothing is known, and 80 columns would leave out half of the table
    console.print(comparison)
    console.print(f"Report: {Path(comparison.folder or out) / 'report.html'}", soft_wrap=True, highlight=False)
    return 0


def _new_folder(path: Path) -> Path:
    """A path like this one where nothing is yet: two comparisons may start in the same second."""
    candidates = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 100))]
    return next(candidate for candidate in candidates if not candidate.exists())


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
        found.setdefault(optimizer, {})[hyperparameter] = parse(space)
    return found


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
