"""What the user wrote: found by the name of its file or module."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jnn.comparison.errors import CandidateError, InputError, did_you_mean


def imported(spec: str, kind: str, fits: Callable[[Any], bool]) -> Any:
    """What `package.module:name` or `path/to/file.py:name` names.

    Raises InputError where it is not there or does not fit, CandidateError where importing the file or module raises."""
    module_name, _, name = spec.rpartition(":")
    module = _import_file(Path(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    found = getattr(module, name, None)
    if not fits(found):
        known = [key for key, value in vars(module).items() if fits(value) and not key.startswith("_")]
        raise InputError(f"{module_name} has no {kind} {name!r}{did_you_mean(name, known)}")
    return found


def _import_file(path: Path):
    try:
        is_file = path.is_file()
    except OSError as error:  # a name of too many letters, a folder that may not be entered
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not is_file:
        raise InputError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"candidate_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look for their module there
    _can_import_from(path.parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CandidateError(f"{path} does not import: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str):
    if not name or name.startswith("."):  # importlib's own for what is relative to nothing
        raise InputError(f"there is no module {name!r}")
    _can_import_from(Path())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise InputError(f"there is no module {error.name!r}") from None
        raise CandidateError(f"{name} does not import: {type(error).__name__}: {error}") from error
    except (Exception, SystemExit) as error:
        raise CandidateError(f"{name} does not import: {type(error).__name__}: {error}") from error


def _can_import_from(folder: Path):
    """As for a script, now and when a factory imports something later."""
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
