"""What the processes of one run agree on, where there are several."""

import jax
import numpy as np


def is_first() -> bool:
    """Whether this process writes what one alone writes."""
    return jax.process_index() == 0


def of_all(number: int) -> list[int]:
    """The number of each process, in all of them. They wait for each other: all call it at the same point of the program."""
    if jax.process_count() == 1:
        return [int(number)]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.int32(number))).tolist()
