"""Whatever the bytes of a file: a DataError, or what its bytes say."""

import gzip
import io
import itertools
import re
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jnn import data
from jnn.data import DataError

NUMBERS = st.sampled_from(
    [b"\0", b"\xff", b"\x7f", b"\x80", b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\1\0\0\0"]
)


@st.composite
def damaged(draw, valid: bytes) -> bytes:
    """Bytes flipped, set to numbers at the end of a range, cut away, moved in or put behind; or as it was."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["flip", "flip", "set", "cut", "lose", "insert", "extend"])):
            case "flip" if content:
                content[at] ^= draw(st.integers(1, 255))
            case "set":
                number = draw(NUMBERS)
                content[at : at + len(number)] = number
            case "cut":
                del content[at:]
            case "lose":
                del content[at : at + draw(st.integers(1, 8))]
            case "insert":
                content[at:at] = draw(st.binary(max_size=8))
            case "extend":
                content += draw(st.binary(max_size=8))
    return bytes(content)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file of its own for each content: some are still mapped when the next is written."""
    folder, numbers = tmp_path_factory.mktemp("fuzz"), itertools.count()

    def write(content: bytes):
        for old in folder.iterdir():
            old.unlink()
        path = folder / f"{next(numbers)}"
        path.write_bytes(content)
        return path

    return write


def or_error(read, path):
    """What is read, or None where a DataError names the file"""
    try:
        return read(path)
    except DataError as error:
        assert str(path) in str(error)
        return None


def unzipped(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


IDX = struct.pack(">BBBBII6h", 0, 0, 11, 2, 2, 3, *range(6))
CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
headers = st.builds(
    lambda code, shape, rest: struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape) + rest,
    st.integers(7, 15),
    st.lists(st.sampled_from([0, 1, 2, 2**16, 2**32 - 1]), max_size=70),
    st.binary(max_size=20),
)


@given(st.binary(max_size=60) | headers | damaged(IDX) | damaged(gzip.compress(IDX, mtime=0)))
def test_idx(written, content):
    found = or_error(data.idx, written(content))
    if found is not None:
        header = struct.pack(f">BBBB{found.ndim}I", 0, 0, CODES[found.dtype.name], found.ndim, *found.shape)
        assert header + found.astype(found.dtype.newbyteorder(">")).tobytes() == unzipped(content)


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "word": np.array(["ä", "bc"])}


def npz_of(save) -> bytes:
    file = io.BytesIO()
    save(file, **ARRAYS)
    return file.getvalue()


@given(damaged(npz_of(np.savez)) | damaged(npz_of(np.savez_compressed)) | st.binary(max_size=60))
def test_npz(written, content):
    found = or_error(data.npz, written(content))
    if found is not None:
        assert list(found) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def npy_of(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


described = st.builds(
    lambda descr, order, shape, rest: (
        b"\x93NUMPY\1\0"
        + struct.pack("<H", len(text := f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n"))
        + text.encode()
        + rest
    ),
    st.sampled_from(["'<f4'", "'|O'", "'|V9'", "'<U2'", "[('a', '<f4')]", "'<M8[s]'", "'?'", "3", "[[]]", "'<c32'"]),
    st.sampled_from(["True", "False", "1"]),
    st.sampled_from(
        [
            "()",
            "(1,)",
            "(0,)",
            "(2, 2)",
            "(-1,)",
            "(2**70,)",
            "(1180591620717411303424,)",
            "(4611686018427387904, 4)",
            "3",
            "(1.5,)",
        ]
    ),
    st.binary(max_size=20),
)


@given(damaged(npy_of(ARRAYS["a"])) | damaged(npy_of(ARRAYS["word"])) | described)
@pytest.mark.filterwarnings("ignore:Reading .* required additional header parsing:UserWarning")  # numpy's second try
def test_an_array_in_a_sound_npz(written, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", content)
    found = or_error(data.npz, written(file.getvalue()))
    if found is not None:
        assert not found["a"].dtype.hasobject
        ordered = "F" if b"'fortran_order': True" in content else "C"
        assert found["a"].tobytes(ordered) in content


@given(
    st.binary(max_size=40) | damaged("Bye: ä, \N{FACE WITH MONOCLE}!".encode()) | damaged(gzip.compress("ä".encode(), mtime=0))
)
def test_text(written, content):
    path = written(content)
    try:
        found = data.text(path)
    except DataError as error:
        place = re.match(rf"{path} is no text in UTF-8: byte (\d+) is (0x\w\w) ", str(error))
        if place is None:
            assert re.match(rf"{path} is damaged or cut off: its {len(content)} bytes unzip to ", str(error))
        else:
            at = int(place[1])
            unzipped(content)[:at].decode()
            assert unzipped(content)[at] == int(place[2], 16)
    else:
        assert found.encode() == unzipped(content)


@given(
    st.binary(max_size=60) | st.binary(max_size=20).map(lambda rest: b"\x93NUMPY" + rest),
    st.sampled_from(["uint8", "int8", "uint16", ">u2", "uint32", "uint64"]),
    st.integers(1, 6),
    st.none() | st.integers(1, 2**17),
)
def test_tokens(written, content, dtype, length, vocabulary):
    def read(path):
        source = data.Tokens(path, length, dtype=dtype, vocabulary=vocabulary)
        return [source[i] for i in range(len(source))]

    found, size = or_error(read, written(content)), np.dtype(dtype).itemsize
    numbers = np.frombuffer(content, dtype, count=len(content) // size).tolist()
    windows = [numbers[i : i + length + 1] for i in range(0, len(numbers) - length, length)]
    limit = 2**31 if vocabulary is None else vocabulary
    marks = (b"\x89PNG", b"PK\3\4", b"\x93NUMPY", b"\xff\xd8\xff", b"PAR1", b"\x1f\x8b\x08")
    whole = len(content) % size == 0 and not content.startswith(marks)
    sound = windows and whole and all(0 <= token < limit for window in windows for token in window)
    assert (found is not None) == bool(sound)
    for (inputs, targets), window in zip(found or [], windows, strict=bool(sound)):
        assert [*inputs.tolist(), int(targets[-1])] == window
        assert targets.tolist() == window[1:]


def tables() -> dict[str, bytes]:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "a": pa.array([1, 2, None, 4, 5], pa.int16()),
            "list": pa.array([[i, 0.5] for i in range(5)], pa.list_(pa.float32())),
            "text": ["x", "ä", "", "long", "y"],
            "topic": pa.array(["u", "v", "u", "u", "v"]).dictionary_encode(),
        }
    )
    kinds = {}
    for checksum in (True, False):
        file = io.BytesIO()
        parquet.write_table(table, file, row_group_size=2, write_page_checksum=checksum)
        kinds[f"parquet, checksum {checksum}"] = file.getvalue()
    for compression in (None, "zstd"):
        file = io.BytesIO()
        with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as out:
            out.write_table(table, max_chunksize=2)
        kinds[f"arrow, compression {compression}"] = file.getvalue()
    return kinds


@pytest.mark.parametrize(
    "kind", ["parquet, checksum True", "parquet, checksum False", "arrow, compression None", "arrow, compression zstd"]
)
def test_tables(kind, written):
    valid = tables()[kind]

    def rows(path):
        source = data.Table(path)
        return [source[i] for i in {*range(min(len(source), 20)), max(len(source) - 1, 0)} if len(source)]

    whole = rows(written(valid))
    assert [row["text"] for row in whole] == ["x", "ä", "", "long", "y"]

    @given(damaged(valid))
    def read(content):
        found = or_error(rows, written(content))
        if content == valid:
            assert str(found) == str(whole)
        for row in found or []:  # without a checksum the numbers can be others, but they are numbers
            for value in row.values():
                assert value is None or isinstance(value, str) or value.dtype.kind in "biuf"

    read()


@given(
    st.binary(max_size=40).map(lambda rest: b"ARROW1\0\0" + rest)
    | st.binary(max_size=40).map(lambda rest: b"PAR1" + rest + b"PAR1")
)
def test_what_only_begins_like_a_table(written, content):
    pytest.importorskip("pyarrow")
    assert or_error(data.Table, written(content)) is None
