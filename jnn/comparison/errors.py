"""What a comparison cannot do, said in one sentence."""


class InputError(ValueError):
    """The comparison was asked for something that it cannot do; nothing has been run or written."""


class ReportError(RuntimeError):
    """The report could not be written. What was found is in `comparison`."""

    def __init__(self, problem: str, comparison):
        super().__init__(problem)
        self.comparison = comparison
