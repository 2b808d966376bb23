"""What the scripts have in common as commands."""

import sys
from collections.abc import Callable

from jnn.comparison.errors import InputError
from jnn.data import DataError


def exit_code(main: Callable[[], object]) -> int:
    """Runs a script. Bad input is one sentence and 2."""
    try:
        main()
    except (InputError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
