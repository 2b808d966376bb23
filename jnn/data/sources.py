"""Examples that are read one at a time, where there are more than memory holds: what `stream` makes batches of.

A source has a length and gives its example i as a pytree of numpy arrays: any list is one, and so is
grain's RandomAccessDataSource."""

import functools
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jnn.data.errors import DataError


class Tokens:
    """Windows of a text that lies in a file as integers, one after another, mapped into memory and never read whole.

    Example i is (inputs, targets), int32 (length,) each: the tokens from i * length on, and those that follow each.
    dtype: of the file, "uint16" as `write_tokens` writes it for vocabularies of up to 65,536.
    vocabulary: a token that is not below it raises DataError, which names its place; None for no such check."""

    def __init__(self, path: str | os.PathLike, length: int, *, dtype="uint16", vocabulary: int | None = None):
        self.path, self.length, self.dtype, self.vocabulary = Path(path), length, np.dtype(dtype), vocabulary
        size = self.path.stat().st_size
        if size % self.dtype.itemsize:
            raise DataError(f"{path}: its {size} bytes are no whole number of {self.dtype.name}: cut off, or of another dtype")
        self.count = size // self.dtype.itemsize
        if len(self) < 1:
            raise DataError(f"{path}: {self.count} tokens are too few for a window of {length} and the token after it")

    def __len__(self) -> int:
        return max(self.count - 1, 0) // self.length

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        return np.memmap(self.path, self.dtype, mode="r")

    def __getitem__(self, i: int):
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path}: window {i} of {len(self)}")
        window = self._tokens[i * self.length : (i + 1) * self.length + 1].astype(np.int32)
        if self.vocabulary is not None and (window >= self.vocabulary).any():
            at = i * self.length + int(np.argmax(window >= self.vocabulary))
            found = int(self._tokens[at])
            raise DataError(
                f"{self.path}: token {at}, at byte {at * self.dtype.itemsize}, is {found}, not below {self.vocabulary}"
            )
        return window[:-1], window[1:]

    def __getstate__(self):  # a map of memory is opened again in each process
        return {name: value for name, value in vars(self).items() if name != "_tokens"}

    def __repr__(self) -> str:
        return f"Tokens({str(self.path)!r}, {self.length}, dtype={self.dtype.name!r}, vocabulary={self.vocabulary})"


def write_tokens(path: str | os.PathLike, tokens, *, dtype="uint16") -> None:
    """Writes integers (n,), or several such arrays one after another, as the file that `Tokens` reads; whole or not at all.

    Raises ValueError where a number does not fit the dtype."""
    path, dtype = Path(path), np.dtype(dtype)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            for piece in [tokens] if hasattr(tokens, "dtype") else tokens:
                piece = np.asarray(piece)
                if piece.size and not (np.iinfo(dtype).min <= piece.min() and piece.max() <= np.iinfo(dtype).max):
                    raise ValueError(f"write_tokens: {piece.min()} to {piece.max()} do not fit {dtype.name}")
                file.write(piece.astype(dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Images:
    """Pictures in folders, one folder for each class: example i is (pixels, label), uint8 (height, width, 3) and int32 [].

    size: (height, width) to which each is scaled; None to take them as they are, which must be of one size to be batched."""

    def __init__(self, folder: str | os.PathLike, *, size: tuple[int, int] | None = None):
        self.folder, self.size = Path(folder), size
        self.classes: Sequence[str] = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        ends = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
        found = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((self.folder / name).rglob("*"))
            if path.suffix.lower() in ends
        ]
        if not found:
            raise DataError(f"{folder}: no pictures in folders below it; it wants {folder}/CLASS/PICTURE.png")
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, i: int):
        from PIL import Image, UnidentifiedImageError

        path, label = self._found[i]
        try:
            with Image.open(path) as image:
                image = image.convert("RGB")
                if self.size is not None:
                    image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
                return np.asarray(image), np.int32(label)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path} is no picture, or a damaged one: {error}") from error


class Table:
    """Rows of an Arrow or Parquet file: example i is {column: value}, numbers or lists of numbers as arrays, text as str.

    columns: their names; None for all. An Arrow file is mapped into memory; of a Parquet file the last `groups` row groups that
    were read are kept, so shuffle it only where groups are small, or write it as Arrow. Needs pyarrow."""

    def __init__(self, path: str | os.PathLike, *, columns: Sequence[str] | None = None, groups: int = 8):
        self.path, self.columns, self.groups = Path(path), columns, groups
        self._lock = threading.RLock()  # pyarrow's readers are not for several threads at once
        with open(self.path, "rb") as file:
            head = file.read(8)
        self._is_parquet = head[:4] == b"PAR1"
        if not self._is_parquet and head[:6] != b"ARROW1":
            raise DataError(f"{path} is neither Parquet nor Arrow: at byte 0 it has {head.hex(' ') or 'nothing'}")
        missing = set(columns or ()) - set(self._file.schema_arrow.names if self._is_parquet else self._file.schema.names)
        if missing:
            raise DataError(f"{path} has no column {', '.join(sorted(missing))}")

    @functools.cached_property
    def _file(self):
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            if self._is_parquet:
                return parquet.ParquetFile(self.path, memory_map=True)
            return pa.ipc.open_file(pa.memory_map(str(self.path)))
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.path} is damaged or cut off: {error}") from error

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """Of the groups, in rows."""
        if self._is_parquet:
            meta = self._file.metadata
            return np.cumsum([meta.row_group(g).num_rows for g in range(meta.num_row_groups)])
        return np.cumsum([self._file.get_batch(g).num_rows for g in range(self._file.num_record_batches)])

    @functools.cached_property
    def _group(self):
        import pyarrow as pa

        def read(g):
            try:
                if self._is_parquet:
                    return self._file.read_row_group(g, columns=self.columns)
                batch = self._file.get_batch(g)
                return batch if self.columns is None else batch.select(self.columns)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{self.path} is damaged in its row group {g}: {error}") from error

        return functools.lru_cache(self.groups)(read)

    def __len__(self) -> int:
        with self._lock:
            return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, i: int):
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path}: row {i} of {len(self)}")
        with self._lock:
            g = int(np.searchsorted(self._ends, i, side="right"))
            group = self._group(g)
        row = i - (int(self._ends[g - 1]) if g else 0)
        return {name: _value(group.column(name)[row].as_py()) for name in group.schema.names}

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name not in ("_file", "_group", "_lock")}

    def __setstate__(self, state):
        vars(self).update(state, _lock=threading.RLock())


def _value(value):
    return value if isinstance(value, str | bytes) or value is None else np.asarray(value)
