"""What the scripts have in common as commands."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from jnn.comparison.errors import InputError
from jnn.data import DataError


def parser(about: str | None, out: str, quick: str) -> argparse.ArgumentParser:
    """With --quick, --seed and --out; `about` is the script's docstring, the folder is runs/`out`."""
    command = re.search(r"python -m [\w.]+", about or "")
    found = argparse.ArgumentParser(
        prog=command and command[0], description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--quick", action="store_true", help=quick)
    found.add_argument("--seed", type=seed, default=0, help="what all random numbers come from (default: %(default)s)")
    # a string, which argparse hands to `folder` where no other is given
    found.add_argument("--out", type=folder, default=f"runs/{out}", help="folder of the results (default: %(default)s)")
    found.set_defaults(experiment=out, parser=found)
    return found


def asked(options: argparse.Namespace) -> dict:
    """What was asked for, for a record: without the folder of the results, of other files only the name."""
    given = {name: value for name, value in vars(options).items() if name not in ("out", "parser")}
    return {name: value.name if isinstance(value, Path) else value for name, value in given.items()}


def command(options: argparse.Namespace) -> str:
    """The command that runs a script with these options again: those that are not the default."""
    typed = [options.parser.prog]
    for name, value in asked(options).items():
        if value != options.parser.get_default(name):
            typed.append(f"--{name}" if value is True else f"--{name} {value}")
    return " ".join(typed)


def seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{number} is not between 0 and {2**31 - 1}")
    return number


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def folder(text: str) -> Path:
    """Makes the folder at once: one that cannot be written fails before the run, not after it."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot make the folder {text}: {error.strerror}") from error
    if not os.access(text, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write into the folder {text}")
    return Path(text)


def exit_code(main: Callable[[], object]) -> int:
    """Runs a script. Bad input is one sentence and 2."""
    try:
        main()
    except (InputError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
