"""The manifest that makes a folder a checkpoint: what is in it, with a checksum for each file, and written last."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

NAME = "manifest.json"
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
    import jax

    import jnn

    files = {str(path.relative_to(folder)): _summed(path, sync=True) for path in _files(folder)}
    versions = {"jnn": jnn.__version__, "jax": jax.__version__}
    manifest = Manifest(dict(arrays), dict(about), versions, files)
    body = json.dumps(manifest._asdict(), indent=1, allow_nan=False).encode()
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


def require_json(about: Mapping[str, Any]) -> None:
    """Raises ValueError."""
    try:
        json.dumps(dict(about), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"checkpoints: what is said about a checkpoint is to be JSON: {error}") from error


def read(folder: Path) -> Manifest:
    """The manifest, its own checksum compared. Raises CheckpointError where there is none or it is damaged."""
    path = folder / NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no complete checkpoint: it has no {NAME}") from None
    head = _HEAD.match(text)
    if head is None or hashlib.sha256(text[head.end() :]).hexdigest().encode() != head[1]:
        raise DamagedError(f"{path} is damaged: its text does not have the checksum of its first line")
    return Manifest(**json.loads(text[head.end() :]))


def verify(folder: Path) -> Manifest:
    """`read`, and every file compared with its checksum. Raises CheckpointError, which names the first that differs."""
    manifest = read(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
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


def _summed(path: Path, sync: bool = False) -> dict:
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}
