"""Parameters in safetensors files: a table of named arrays that torch, flax and others read as well."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn import tree

_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
}
_KNOWN = {np.dtype(dtype).name for dtype in _DTYPES.values()}


def save(path: str | os.PathLike, params: Mapping[str, Any], metadata: Mapping[str, str] = {}) -> None:
    """Writes a nested dict of arrays to a safetensors file, each under its path: `dense_0/w`.

    metadata: texts that are kept beside the arrays.
    A file of this name is replaced when the new one is complete, so there is never half a file. Empty dicts are not kept;
    lists come back as dicts.
    Raises TypeError for what is no array, for a dtype that the format has not (complex128, int4), and for random keys: save
    their `jax.random.key_data`.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if not isinstance(params, Mapping):
        raise TypeError(f"save: expected a nested dict of arrays, got {type(params).__name__}")
    arrays = {name: _numpy(name, leaf) for name, leaf in tree.flatten(params).items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(arrays, part, metadata=dict(metadata) or None)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> dict[str, Any]:
    """The nested dict of arrays in a safetensors file.

    Raises FileNotFoundError; ValueError where it is no safetensors file or a damaged one, and where it holds numbers of 64
    bits that jax would cut to 32: allow them by `jax.enable_x64(True)`.
    """
    flat = arrays_in(path)
    cut = [name for name, array in flat.items() if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype]
    if cut:
        raise ValueError(
            f"{path}: {', '.join(cut)} have 64 bits, which jax would cut to 32: load them under jax.enable_x64(True)"
        )
    return tree.unflatten({name: jnp.asarray(array) for name, array in flat.items()})


def metadata(path: str | os.PathLike) -> dict[str, str]:
    """The texts beside the arrays of a safetensors file. Raises as `load` does."""
    import safetensors

    _require_file(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error


def arrays_in(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} as they stand in a safetensors file."""
    import safetensors

    _require_file(path)
    try:
        entries = dict(safetensors.deserialize(Path(path).read_bytes()))
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    unknown = sorted({entry["dtype"] for entry in entries.values()} - set(_DTYPES))
    if unknown:
        raise ValueError(f"{path}: holds arrays of {', '.join(unknown)}, for which there is no dtype in jax")
    return {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in sorted(entries.items())
    }


def _require_file(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")


def _damaged(path, error) -> ValueError:
    return ValueError(f"{path}: not a safetensors file, or a damaged one: {error}")


def _numpy(name, leaf) -> np.ndarray:
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise TypeError(f"save: expected an array at {name}, got {type(leaf).__name__} {leaf!r}"[:200])
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise TypeError(f"save: {name} is a random key, which has no form in a file: save jax.random.key_data of it")
    if leaf.dtype.name not in _KNOWN:
        raise TypeError(f"save: {name} has the dtype {leaf.dtype.name}, for which a safetensors file has no form")
    return np.asarray(leaf, order="C")
