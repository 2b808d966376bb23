"""Files as arrays: idx, NPZ, text. One that is cut off, damaged or something else raises DataError, which names the place."""

import gzip
import math
import os
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from jnn.data.errors import DataError

_IDX = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_KINDS = {
    b"\x89PNG": "PNG",
    b"PK\x03\x04": "zip or NPZ",
    b"\x93NUMPY": "NPY",
    b"\xff\xd8\xff": "JPEG",
    b"PAR1": "Parquet",
    b"\x1f\x8b\x08": "gzip",
}


def idx(path: str | os.PathLike) -> np.ndarray:
    """The array of an idx file, as MNIST's, plain or gzipped: of any of its six dtypes, in the byte order of this machine."""
    path = Path(path)
    content = _unzipped(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX:
        raise DataError(f"{path} is no idx file: at byte 0 it has {content[:4].hex(' ') or 'nothing'}{kind_of(content)}")
    dtype, axes = np.dtype(_IDX[content[2]]), content[3]
    begin = 4 + 4 * axes
    if len(content) < begin:
        raise DataError(f"{path} is cut off at byte {len(content)}, in its header of {begin} bytes")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", axes, offset=4))
    end = begin + math.prod(shape) * dtype.itemsize
    if len(content) < end:
        raise DataError(f"{path} is cut off at byte {len(content)}: its header, {dtype.name} {shape}, wants {end} bytes")
    if len(content) > end:
        raise DataError(f"{path} goes on behind byte {end}, where its header, {dtype.name} {shape}, ends it")
    try:
        return np.frombuffer(content, dtype, offset=begin).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # more axes than numpy has, or the product of all lengths but a zero
        raise DataError(f"{path} is damaged: its header, from byte 4, wants {dtype.name} {shape} ({error})") from error


def npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named arrays of an NPZ file. Its checksums are compared; Python objects in it are refused, as they could run code."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                at = archive.getinfo(damaged).header_offset
                raise DataError(f"{path} is damaged: {damaged}, from byte {at}, does not have its checksum")
            members, said = len(archive.namelist()), _count_of_zip(path)
            if members != said:  # zipfile takes a member for a comment on the one before, where the comment's length is wrong
                raise DataError(f"{path} is damaged: it has {members} arrays, and at its end says that it has {said}")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except DataError:
        raise
    except Exception as error:  # of as many kinds as zipfile, its decompressors and numpy's parser of headers have
        raise DataError(f"{path} is no NPZ file of plain arrays, or a damaged one ({error}){kind_of(head_of(path))}") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path} is no NPZ file: its member {name} is no array")
    return found


def _count_of_zip(path: Path) -> int:
    """As its last record says: PKWARE's APPNOTE, 4.3.16."""
    with open(path, "rb") as file:
        file.seek(-min(path.stat().st_size, 22 + 65535), os.SEEK_END)
        tail = file.read()
    return int.from_bytes(tail[tail.rfind(b"PK\5\6") + 10 :][:2], "little")


def text(path: str | os.PathLike) -> str:
    """The text of a file in UTF-8, plain or gzipped."""
    path = Path(path)
    try:
        return _unzipped(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x} ({error.reason})"
        ) from error


def _unzipped(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        whole = 0
        with suppress(zlib.error):  # as far as it goes
            whole = len(zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content))
        raise DataError(f"{path} is damaged or cut off: its {len(content)} bytes unzip to {whole} at most ({error})") from error


def head_of(path: Path) -> bytes:
    """Its first bytes, 8 at most."""
    with open(path, "rb") as file:
        return file.read(8)


def kind_of(content: bytes) -> str:
    """ "; it looks like KIND" where it begins as a file of another kind; "" else."""
    return next((f"; it looks like {kind}" for mark, kind in _KINDS.items() if content.startswith(mark)), "")
