"""Files as arrays, against bytes written by hand, as their formats are defined."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from jnn import data
from jnn.data import DataError

# code, how struct writes one number, numbers with all their bytes different
DTYPES = {
    "uint8": (8, "B", [0, 1, 254, 255]),
    "int8": (9, "b", [0, 1, -128, 127]),
    "int16": (11, "h", [0, 258, -32768, 32767]),
    "int32": (12, "i", [0, 16909060, -(2**31), 2**31 - 1]),
    "float32": (13, "f", [0, 1.5, -1.25 * 2**90, 2**-140]),
    "float64": (14, "d", [0, 0.1, -3.25e200, 5e-324]),
}


def idx_bytes(code, letter, numbers, shape) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape) + struct.pack(
        f">{len(numbers)}{letter}", *numbers
    )


SMALL = idx_bytes(11, "h", [1, 2, 3, 4, 5, -6], (2, 3))


@pytest.fixture
def written(tmp_path):
    def write(name, content: bytes):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", DTYPES)
def test_idx_of_every_dtype_is_what_was_written(name, pack, written):
    code, letter, numbers = DTYPES[name]
    found = data.idx(written("a", pack(idx_bytes(code, letter, numbers, (2, 2)))))
    assert found.dtype == np.dtype(name)
    assert found.dtype.isnative
    assert found.tolist() == np.reshape(numbers, (2, 2)).tolist()
    found[:] = 0  # is the reader's own


@pytest.mark.parametrize("shape", [(), (6,), (1, 2, 3), (1, 1, 6, 1), (0,), (3, 0, 2)])
def test_idx_of_every_shape(shape, written):
    numbers = list(range(int(np.prod(shape))))
    np.testing.assert_array_equal(data.idx(written("a", idx_bytes(8, "B", numbers, shape))), np.reshape(numbers, shape))


def test_gzip_in_several_parts_is_one_file(written):
    assert data.idx(written("a.gz", gzip.compress(SMALL[:9]) + gzip.compress(SMALL[9:]))).tolist() == [[1, 2, 3], [4, 5, -6]]


@pytest.mark.parametrize("size", range(len(SMALL)))
def test_idx_cut_off_at_any_byte_is_refused(size, written):
    with pytest.raises(DataError) as error:
        data.idx(written("a", SMALL[:size]))
    place = f"is cut off at byte {size}" if size >= 4 else "is no idx file: at byte 0 it has "
    assert str(error.value).startswith(f"{written('a', SMALL[:size])} {place}")


def test_idx_that_goes_on_is_refused(written, raises):
    path = written("a", SMALL + b"\0")
    with raises(DataError, f"{path} goes on behind byte 24, where its header, int16 (2, 3), ends it"):
        data.idx(path)


@pytest.mark.parametrize("read", [data.idx, data.text])
@pytest.mark.parametrize("size", range(2, len(gzip.compress(SMALL))))
def test_gzip_cut_off_at_any_byte_is_refused(size, read, written):
    path = written("a", gzip.compress(SMALL)[:size])
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(f"{path} is damaged or cut off: its {size} bytes unzip to ")


@pytest.mark.parametrize("at", range(3, len(gzip.compress(SMALL))))
def test_a_flipped_byte_of_gzip_is_seen_or_harmless(at, written):
    content = bytearray(gzip.compress(SMALL, mtime=0))
    content[at] ^= 0xFF
    if at in (4, 5, 6, 7, 8, 9):  # time, level and system, by RFC 1952
        assert data.idx(written("a", content)).tolist() == [[1, 2, 3], [4, 5, -6]]
    else:
        with pytest.raises(DataError, match="is damaged or cut off"):
            data.idx(written("a", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no idx file: at byte 0 it has nothing"),
        (b"\1\0\x08\1\0\0\0\0", "is no idx file: at byte 0 it has 01 00 08 01"),
        (b"\0\0\x0a\1\0\0\0\0", "is no idx file: at byte 0 it has 00 00 0a 01"),
        (b"\x89PNG\r\n\x1a\n", "is no idx file: at byte 0 it has 89 50 4e 47; it looks like PNG"),
        (b"PK\x03\x04....", "is no idx file: at byte 0 it has 50 4b 03 04; it looks like zip or NPZ"),
        (
            b"\0\0\x08\2" + b"\xff" * 8,
            "is cut off at byte 12: its header, uint8 (4294967295, 4294967295), wants 18446744065119617037",
        ),
        (
            b"\0\0\x08\x03\0\0\0\0" + b"\xff" * 8,
            "is damaged: its header, from byte 4, wants uint8 (0, 4294967295, 4294967295) (",
        ),
        (b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"!", f"is damaged: its header, from byte 4, wants uint8 {(1,) * 65} ("),
    ],
)
def test_what_is_no_idx_is_refused(content, message, written):
    path = written("train-images.gz", content)
    with pytest.raises(DataError) as error:
        data.idx(path)
    assert str(error.value).startswith(f"{path} {message}")


# npz

ARRAYS = {"a": np.arange(300, dtype=np.float32).reshape(20, 15), "b": np.array(3), "c": np.array(["ä", "bc"])}


def npz_bytes(save=np.savez, **arrays) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def members(**contents: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy_bytes(header: str, content=b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + content


def assert_same_arrays(found, arrays):
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_what_numpy_saved(save, written):
    assert_same_arrays(data.npz(written("a.npz", npz_bytes(save, **ARRAYS))), ARRAYS)


def test_npz_with_an_array_flipped_at_any_byte_is_refused_by_name_and_place(written):
    content = npz_bytes(**ARRAYS)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        begins = [info.header_offset for info in archive.infolist()]
    for at in range(begins[1] + 60, begins[2] - 20):  # behind the local header, before the sizes of the next
        damaged = bytearray(content)
        damaged[at] ^= 1
        path = written("a.npz", damaged)
        with pytest.raises(DataError) as error:
            data.npz(path)
        assert str(error.value) == f"{path} is damaged: b.npy, from byte {begins[1]}, does not have its checksum"


def test_npz_that_has_lost_an_array_to_a_comment_is_refused(written, raises):
    content = bytearray(npz_bytes(**ARRAYS))
    content[content.index(b"PK\1\2") + 33] = 1  # 256 bytes of comment on the first
    path = written("a.npz", content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["a.npy"]
    with raises(DataError, f"{path} is damaged: it has 1 arrays, and at its end says that it has 3"):
        data.npz(path)


def test_npz_cut_off_at_any_byte_is_refused(written):
    content = npz_bytes(a=np.arange(3))
    for size in range(len(content)):
        path = written("a.npz", content[:size])
        with pytest.raises(DataError) as error:
            data.npz(path)
        assert str(error.value).startswith(f"{path} is no NPZ file of plain arrays, or a damaged one (")


class Unsafe:
    def __reduce__(self):
        return (pytest.fail, ("a file ran code",))


def test_npz_with_python_objects_is_refused_and_runs_nothing(written):
    with pytest.raises(DataError, match=r"a\.npz is no NPZ file of plain arrays.*allow_pickle"):
        data.npz(written("a.npz", npz_bytes(a=np.array([Unsafe()], object))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SMALL, r"is no NPZ file of plain arrays, or a damaged one \(File is not a zip file\)$"),
        (b"\x89PNG\r\n\x1a\n", "it looks like PNG$"),
        (b"", "File is not a zip file"),
        (npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"1234"), "it looks like NPY$"),
        (members(a=b"no array"), "is no NPZ file: its member a is no array"),
        (members(a=npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", b"1234")), "EOF"),
        (members(a=npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2**60,)}")), "damaged"),
        (members(a=npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,)}")), "damaged"),
        (members(a=npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (")), "damaged"),
        (members(a=npy_bytes("[" * 3000)), "damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore:Reading .* required additional header parsing:UserWarning")  # numpy's second try
def test_what_is_no_npz_is_refused(content, message, written):
    with pytest.raises(DataError, match=message):
        data.npz(written("a.npz", content))


# text


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_text_is_read_as_it_is(pack, written):
    text = "To be,\r\nor not: \N{GREEK SMALL LETTER ALPHA}\N{FACE WITH MONOCLE}\0"
    assert data.text(written("a", pack(text.encode()))) == text
    assert data.text(written("a", pack(b""))) == ""


@pytest.mark.parametrize(
    ("content", "at", "byte"),
    [
        (b"abc\xff", 3, "0xff"),
        ("äö".encode()[:3], 2, "0xc3"),
        ("ä".encode("latin-1") + b"bc", 0, "0xe4"),
        (b"a\xed\xa0\x80", 1, "0xed"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_text_in_another_code_is_refused_at_its_byte(content, at, byte, pack, written):
    path = written("a", pack(content))
    with pytest.raises(DataError) as error:
        data.text(path)
    assert str(error.value).startswith(f"{path} is no text in UTF-8: byte {at} is {byte} (")


@pytest.mark.parametrize("read", [data.idx, data.npz, data.text])
def test_a_file_that_is_not_there_is_an_error_of_its_own(read, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read(tmp_path / "none")
