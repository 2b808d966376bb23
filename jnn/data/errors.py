"""What can be wrong with data."""


class DataError(RuntimeError):
    """A data set cannot be had, or is not what it should be. The message says what, where, and what to do."""


class MissingDataError(DataError):
    """A data set is neither on this machine nor to be fetched."""
