"""Examples that are read one at a time, where there are more than memory holds: what `stream` makes batches of.

A source has a length and gives its example i as a pytree of numpy arrays: any list is one, and so is
grain's RandomAccessDataSource."""

import functools
import os
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jnn.data.errors import DataError
from jnn.data.readers import head_of, kind_of
from jnn.numbers import whole, wholes


class Tokens:
    """Windows of a text that lies in a file as integers, one after another, mapped into memory and never read whole.

    Example i is (inputs, targets), int32 (length,) each: the tokens from i * length on, and those that follow each.
    dtype: of the file, whole numbers, "uint16" as `write_tokens` writes it for vocabularies of up to 65,536.
    vocabulary: a token that is not below it raises DataError, which names its place; None for any that int32 holds.

    Raises DataError where the bytes are no whole number of tokens, or begin as a file of another kind, NPY or gzip."""

    def __init__(self, path: str | os.PathLike, length: int, *, dtype="uint16", vocabulary: int | None = None):
        self.path, self.length = Path(path), whole("Tokens", "length", length)
        self.vocabulary = None if vocabulary is None else whole("Tokens", "vocabulary", vocabulary)
        self.dtype = _integers("Tokens", dtype)
        size, head = self.path.stat().st_size, head_of(self.path)
        if kind := kind_of(head):
            raise DataError(f"{path} is no file of tokens: at byte 0 it has {head.hex(' ')}{kind}")
        if size % self.dtype.itemsize:
            raise DataError(f"{path}: its {size} bytes are no whole number of {self.dtype.name}: cut off, or of another dtype")
        self.count = size // self.dtype.itemsize
        if len(self) < 1:
            raise DataError(f"{path}: {self.count} tokens are too few for a window of {length} and the token after it")

    def __len__(self) -> int:
        return max(self.count - 1, 0) // self.length

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        size = self.path.stat().st_size
        if size != self.count * self.dtype.itemsize:
            raise DataError(f"{self.path} had {self.count * self.dtype.itemsize} bytes when it was opened, and now has {size}")
        return np.memmap(self.path, self.dtype, mode="r")

    def __getitem__(self, i: int):
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path}: window {i} of {len(self)}")
        window = np.asarray(self._tokens[i * self.length : (i + 1) * self.length + 1])
        limit = self.vocabulary or 2**31
        if window.max() >= limit or window.min() < 0:
            at = i * self.length + int(np.argmax((window >= limit) | (window < 0)))
            found, wanted = int(self._tokens[at]), f"not below {limit}" if self._tokens[at] >= limit else "below 0"
            raise DataError(f"{self.path}: token {at}, at byte {at * self.dtype.itemsize}, is {found}, {wanted}")
        window = window.astype(np.int32)
        return window[:-1], window[1:]

    def __getstate__(self):  # a map of memory is opened again in each process
        return {name: value for name, value in vars(self).items() if name != "_tokens"}

    def __repr__(self) -> str:
        return f"Tokens({str(self.path)!r}, {self.length}, dtype={self.dtype.name!r}, vocabulary={self.vocabulary})"


def write_tokens(path: str | os.PathLike, tokens, *, dtype="uint16") -> None:
    """Writes integers (n,), or several such arrays one after another, as the file that `Tokens` reads; whole or not at all.

    Raises ValueError where one is no whole number or does not fit the dtype."""
    path, dtype = Path(path), _integers("write_tokens", dtype)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            for piece in [tokens] if hasattr(tokens, "dtype") else tokens:
                piece = np.asarray(piece)
                if piece.size and piece.dtype.kind not in "iu":
                    raise ValueError(f"write_tokens: tokens are whole numbers, got {piece.dtype.name}")
                if piece.size and not (np.iinfo(dtype).min <= piece.min() and piece.max() <= np.iinfo(dtype).max):
                    raise ValueError(f"write_tokens: {piece.min()} to {piece.max()} do not fit {dtype.name}")
                file.write(piece.astype(dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _integers(owner: str, dtype) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype.kind not in "iu":
        raise ValueError(f"{owner}: dtype must be one of whole numbers, got {dtype.name}")
    return dtype


class Images:
    """Pictures in folders, one folder for each class: example i is (pixels, label), uint8 (height, width, 3) and int32 [].

    size: (height, width) to which each is scaled; None to take them as they are, which must be of one size to be batched.
    A picture is turned as its EXIF orientation says. One of more than 8 bits a channel raises DataError, as nothing says which
    of its numbers is white. Files and folders whose name begins with a dot are passed over; a folder of a class that holds no
    picture raises DataError."""

    def __init__(self, folder: str | os.PathLike, *, size: tuple[int, int] | None = None):
        self.folder, self.size = Path(folder), None if size is None else wholes("Images", "size", size)
        if self.size is not None and len(self.size) != 2:
            raise ValueError(f"Images: size is (height, width), got {size}")
        folders = sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.classes: Sequence[str] = [path.name for path in folders]
        self._found = [(path, label) for label, one in enumerate(folders) for path in _pictures(one)]
        if not self._found:
            raise DataError(f"{folder}: no pictures in folders below it; it wants {folder}/CLASS/PICTURE.png")
        empty = sorted(set(self.classes) - {self.classes[label] for _, label in self._found})
        if empty:
            raise DataError(f"{folder}: no pictures of the class {', '.join(empty)}: remove the folder, or fill it")

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, i: int):
        from PIL import Image, ImageOps

        path, label = self._found[i]
        try:
            with Image.open(path) as image:
                deep = image.mode[0] in "IF" or ";16" in str(image.tile)  # of which Pillow would keep the upper or lower bits
                if deep:
                    raise DataError(f"{path} has more than 8 bits a channel")
                image = ImageOps.exif_transpose(image).convert("RGB")
                if self.size is not None:
                    image = image.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
                return np.asarray(image), np.int32(label)
        except DataError:
            raise
        except Exception as error:  # of as many kinds as Pillow has decoders
            raise DataError(f"{path} is no picture, or a damaged one: {error}") from error


def _pictures(folder: Path) -> list[Path]:
    """All below it, sorted, but for what is hidden."""
    ends = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in ends)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


class Table:
    """Rows of an Arrow or Parquet file: example i is {column: value}, numbers and lists of numbers as arrays of the column's
    dtype, text as str, null as None.

    columns: their names; None for all. An Arrow file is mapped into memory; of a Parquet file the last `groups` row groups that
    were read are kept, so shuffle it only where groups are small, or write it as Arrow. Needs pyarrow."""

    def __init__(self, path: str | os.PathLike, *, columns: Sequence[str] | None = None, groups: int = 8):
        self.path, self.groups = Path(path), whole("Table", "groups", groups)
        with open(self.path, "rb") as file:
            head = file.read(8)
        self._is_parquet = head[:4] == b"PAR1"
        if not self._is_parquet and head[:6] != b"ARROW1":
            raise DataError(f"{path} is neither Parquet nor Arrow: at byte 0 it has {head.hex(' ') or 'nothing'}")
        self._lock = threading.RLock()  # pyarrow's readers are not for several threads at once
        with self._reading():
            schema = self._file.schema_arrow if self._is_parquet else self._file.schema
            self._kinds = {name: _kind(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
        if isinstance(columns, str):
            raise TypeError(f"Table: columns are several names, as [{columns!r}] is, got {columns!r}")
        missing = set(columns or ()) - set(self._kinds)
        if missing:
            raise DataError(f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(self._kinds)}")
        self.columns = list(self._kinds if columns is None else columns)
        for name in self.columns:
            if schema.names.count(name) > 1:
                raise DataError(f"{path} has {schema.names.count(name)} columns of the name {name}")
            if self._kinds[name] is None:
                raise DataError(
                    f"{path}: column {name} holds {schema.field(name).type}, neither numbers, lists of them nor text"
                )
        with self._reading():
            self._ends = self._ends_of_groups()  # in rows

    @contextmanager
    def _reading(self, where: str = ""):
        import pyarrow as pa

        try:
            with self._lock:
                yield
        except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, OverflowError) as error:
            size = self.path.stat().st_size
            raise DataError(f"{self.path}, of {size} bytes, is damaged or cut off{where}: {error}") from error

    @functools.cached_property
    def _file(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        if self._is_parquet:
            return parquet.ParquetFile(self.path, memory_map=True, page_checksum_verification=True)
        return pa.ipc.open_file(pa.memory_map(str(self.path)))

    def _ends_of_groups(self) -> np.ndarray:
        if self._is_parquet:
            meta = self._file.metadata
            return np.cumsum([meta.row_group(g).num_rows for g in range(meta.num_row_groups)])
        return np.cumsum([self._file.get_batch(g).num_rows for g in range(self._file.num_record_batches)])

    @functools.cached_property
    def _group(self):
        sound = set()

        def read(g):
            group = self._file.read_row_group(g, columns=self.columns) if self._is_parquet else self._file.get_batch(g)
            if g not in sound:  # places outside of the file are not to be followed
                group.validate(full=True)
                sound.add(g)
            return group

        return functools.lru_cache(self.groups)(read)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, i: int):
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path}: row {i} of {len(self)}")
        g = int(np.searchsorted(self._ends, i, side="right"))
        row = i - (int(self._ends[g - 1]) if g else 0)
        with self._reading(f" in its row group {g}"):
            values = [self._group(g).column(name)[row] for name in self.columns]
        try:
            return {name: _value(value, self._kinds[name]) for name, value in zip(self.columns, values, strict=True)}
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: row {i} has a list with nulls or of lists of unequal lengths ({error})") from error

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name not in ("_file", "_group", "_lock")}

    def __setstate__(self, state):
        vars(self).update(state, _lock=threading.RLock())


def _kind(kind):
    """Of an Arrow type: the dtype of its numbers, str, or None for anything else."""
    import pyarrow as pa

    is_of = pa.types
    if is_of.is_dictionary(kind) or is_of.is_list(kind) or is_of.is_large_list(kind) or is_of.is_fixed_size_list(kind):
        return _kind(kind.value_type)
    if is_of.is_string(kind) or is_of.is_large_string(kind):
        return str
    is_number = is_of.is_integer(kind) or is_of.is_floating(kind) or is_of.is_boolean(kind)
    return np.dtype(kind.to_pandas_dtype()) if is_number else None


def _value(scalar, kind):
    """Of an Arrow scalar."""
    import pyarrow as pa

    if kind is str or not scalar.is_valid:
        return scalar.as_py()
    numbers = getattr(scalar, "values", None)  # of a list
    if numbers is not None and pa.types.is_primitive(numbers.type) and not numbers.null_count:
        return numbers.to_numpy(zero_copy_only=False)
    nested = scalar.as_py()
    if None in np.asarray(nested, object).ravel().tolist():  # as a float it would be NaN, as a bool False
        raise ValueError("null")
    return np.asarray(nested, kind)
