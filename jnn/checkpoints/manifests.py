"""The manifest that makes a folder a checkpoint: what is in it, with a checksum for each file, and written last."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jnn import tree as trees

NAME = "manifest.json"
# what Orbax stores
DTYPES = {
    *("bool", "int2", "int4", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
    *("float8_e3m4", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    *("float8_e8m0fnu", "float4_e2m1fn"),
}
_DEEPEST = 100  # keys of a path; from about 1,000 on, jaxlib counts wrong and raises RecursionError for good
_HEAD = re.compile(rb"jnn checkpoint 1 sha256 ([0-9a-f]{64})\n")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another model; or one that could not be written."""


class DamagedError(CheckpointError):
    """A file of a checkpoint is not what was written."""


class Manifest(NamedTuple):
    """What a checkpoint says of itself."""

    arrays: dict[str, dict]  # path -> {"shape": [2, 3], "dtype": "float32"}; of random keys {"key": "threefry2x32"} too
    about: dict[str, Any]  # whatever was given, as JSON has it
    versions: dict[str, str]  # of jnn and jax
    files: dict[str, dict]  # name within the folder -> {"bytes": 123, "sha256": "..."}


def seal(folder: Path, arrays: Mapping[str, dict], about: Mapping[str, Any]) -> Manifest:
    """Writes the manifest of a folder whose files are complete. When it returns, all of them are on the disk.

    Files are synced before the manifest that vouches for them, the folders with them, and the manifest's own name last: a
    rename may reach the disk before what was renamed."""
    files = {_name(folder, path): _summed(path, sync=True) for path in _files(folder)}
    said = Manifest(dict(arrays), dict(about), versions(), files)._asdict()
    body = json.dumps(said, indent=1, allow_nan=False).encode()
    manifest = _parsed(folder / NAME, body)
    part = folder / f".{NAME}.part"
    with open(part, "wb") as file:
        file.write(b"jnn checkpoint 1 sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    for below in (path for path, *_ in os.walk(folder)):
        sync_folder(Path(below))
    part.replace(folder / NAME)
    sync_folder(folder)
    sync_folder(folder.parent)
    return manifest


def versions() -> dict[str, str]:
    import jnn

    return {"jnn": jnn.__version__, "jax": jax.__version__}


def require_json(about: Mapping[str, Any]) -> None:
    """Raises ValueError."""
    try:
        json.dumps(dict(about), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"checkpoints: what is said about a checkpoint is to be JSON: {error}") from error


def read(folder: Path) -> Manifest:
    """The manifest, its own checksum compared. Raises CheckpointError where there is none, or it is damaged, or of no use."""
    path = folder / NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder} is no complete checkpoint: it has no {NAME}") from None
    head = _HEAD.match(text)
    if head is None or hashlib.sha256(text[head.end() :]).hexdigest().encode() != head[1]:
        raise DamagedError(f"{path} is damaged: its text does not have the checksum of its first line")
    return _parsed(path, text[head.end() :])


def _parsed(path: Path, body: bytes) -> Manifest:
    """Whoever wrote it: what it says is believed from here on."""
    try:
        said = json.loads(body)
        _require_form(said)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} does not have the form of a manifest: {error}") from None
    return Manifest(**said)


def _require_form(said) -> None:
    """Raises ValueError or TypeError, which says what is not as in `Manifest`."""
    if not isinstance(said, dict) or said.keys() != set(Manifest._fields):
        raise ValueError(f"it wants {', '.join(Manifest._fields)}")
    json.dumps(said, ensure_ascii=False).encode()  # half a surrogate pair is no text
    for name, part in said.items():
        if not isinstance(part, dict):
            raise ValueError(f"{name} is no object")
    for path, entry in said["arrays"].items():
        _require_array(path, entry)
    trees.unflatten(dict.fromkeys(said["arrays"]))
    for name, entry in said["files"].items():
        if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
            raise ValueError(f"the file {name} wants bytes, sha256")


def _require_array(path: str, entry) -> None:
    if path.count("/") >= _DEEPEST:
        raise ValueError(f"{path[:40]}... has more than {_DEEPEST} keys")
    if not isinstance(entry, dict) or not {"shape", "dtype"} <= entry.keys() <= {"shape", "dtype", "key"}:
        raise ValueError(f"{path} wants shape, dtype")
    shape, dtype = entry["shape"], entry["dtype"]
    if not isinstance(shape, list) or any(type(length) is not int for length in shape):
        raise ValueError(f"{path} has the shape {shape}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{path} has the dtype {dtype}")
    array = np.empty((0, *shape), jax.numpy.dtype(dtype))  # of no size; the lengths are looked at all the same
    if "key" in entry:
        if not isinstance(entry["key"], str):
            raise ValueError(f"{path} has keys of {entry['key']}")
        jax.eval_shape(partial(jax.random.wrap_key_data, impl=entry["key"]), array)


def verify(folder: Path) -> Manifest:
    """`read`, and every file compared with its checksum. Raises CheckpointError, which names the first that differs."""
    manifest = read(folder)
    there = {_name(folder, path): path for path in _files(folder)}
    for name, expected in manifest.files.items():
        if name not in there:  # nor is it looked for outside, as "../name" or "/name"
            raise DamagedError(f"{folder}/{name} is missing")
        path = there[name]
        found = _summed(path)
        if found["bytes"] != expected["bytes"]:
            raise DamagedError(f"{path} is damaged: it has {found['bytes']} bytes and had {expected['bytes']}")
        if found != expected:
            raise DamagedError(f"{path} is damaged: its bytes do not have the checksum that {NAME} names")
    return manifest


def sync_folder(folder: Path) -> None:
    """The names in a folder onto the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def make_folder(folder: Path) -> None:
    """With all above it that are missing; when it returns, their names are on the disk."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync_folder(path.parent)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (NAME, f".{NAME}.part"))


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _summed(path: Path, sync: bool = False) -> dict:
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}
