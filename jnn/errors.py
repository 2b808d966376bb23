"""Errors that say where: the path of a layer within the model, put together on the way out."""

from collections.abc import Iterator
from contextlib import contextmanager


class LayerError(ValueError):
    """A layer was given what it cannot take. `str()` begins with the layer's path in the model."""

    def __init__(self, kind: str, problem: str):
        super().__init__(kind, problem)
        self.kind = kind  # the factory, named while the path is not known
        self.problem = problem
        self.layer_path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{'/'.join(self.layer_path) or self.kind}: {self.problem}"


@contextmanager
def at(name: str) -> Iterator[None]:
    """Adds `name` in front of the path of whatever is raised inside.

    Errors that are not jnn's own keep their class and message; the path is added as a note."""
    try:
        yield
    except Exception as error:
        path = (name, *getattr(error, "layer_path", ()))
        error.layer_path = path  # pyright: ignore[reportAttributeAccessIssue]  # on any exception, declared on none
        if not isinstance(error, LayerError):
            prefix = "raised in layer "
            notes = [note for note in getattr(error, "__notes__", []) if not note.startswith(prefix)]
            error.__notes__ = [*notes, prefix + "/".join(path)]
        raise
