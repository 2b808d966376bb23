"""What the scripts have in common as commands."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from jnn.comparison.errors import InputError
from jnn.data import DataError


def parser(about: str | None, out: str, quick: str) -> argparse.ArgumentParser:
    """With --quick, --seed and --out; `about` is the script's docstring, the folder is runs/`out`."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help=quick)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", type=Path, default=Path("runs") / out)
    found.set_defaults(experiment=out)
    return found


def exit_code(main: Callable[[], object]) -> int:
    """Runs a script. Bad input is one sentence and 2."""
    try:
        main()
    except (InputError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
