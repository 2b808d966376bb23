"""What a comparison cannot do, said in one sentence."""

import difflib


class InputError(ValueError):
    """The comparison was asked for something that it cannot do; nothing has been run or written."""


class CandidateError(InputError):
    """The user's own code raised; its traceback belongs to the message."""


class ReportError(RuntimeError):
    """The report could not be written. What was found is in `comparison`."""

    def __init__(self, problem: str, comparison):
        super().__init__(problem)
        self.comparison = comparison


def did_you_mean(name: str, known) -> str:
    """ ", did you mean a or b?" with the names nearest to `name`; nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
