"""What a comparison cannot do, said in one sentence."""


class InputError(ValueError):
    """The comparison was asked for something that it cannot do; nothing has been run or written."""
