"""Examples one at a time, against numpy, Pillow and pyarrow, which wrote them."""

import os
import pickle
import re
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from jnn import data
from jnn.data import DataError, Images, Table, Tokens, write_tokens

ROOT = str(Path(__file__).parents[2])
TOKENS = np.random.default_rng(0).integers(0, 50_000, 103).astype(np.uint16)


@pytest.fixture
def tokens(tmp_path):
    write_tokens(tmp_path / "tokens.bin", TOKENS)
    return tmp_path / "tokens.bin"


@pytest.mark.parametrize("length", [1, 7, 51, 102])
def test_windows_are_slices_and_what_follows_each_token(length, tokens):
    source = Tokens(tokens, length)
    assert len(source) == 102 // length
    for i in range(len(source)):
        inputs, targets = source[i]
        assert inputs.dtype == targets.dtype == np.int32
        np.testing.assert_array_equal(inputs, TOKENS[i * length : (i + 1) * length])
        np.testing.assert_array_equal(targets, TOKENS[i * length + 1 : (i + 1) * length + 1])
    for i in (-1, len(source)):
        with pytest.raises(IndexError, match=f"window {i} of {len(source)}$"):
            source[i]


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "uint32", "int64"])
def test_tokens_of_every_dtype(dtype, tmp_path):
    small = TOKENS % 200
    write_tokens(tmp_path / "a", small, dtype=dtype)
    assert (tmp_path / "a").read_bytes() == small.astype(dtype).tobytes()
    np.testing.assert_array_equal(Tokens(tmp_path / "a", 50, dtype=dtype)[1][0], small[50:100])


def test_tokens_are_mapped_and_not_read(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)  # a terabyte of zeros that takes no room
        file.seek(2**40 - 6)
        file.write(np.uint16([7, 8, 9]).tobytes())
    source = Tokens(tmp_path / "sparse", 1023)
    assert len(source) == (2**39 - 1) // 1023
    assert Tokens(tmp_path / "sparse", 1)[2**39 - 2] == ([8], [9])


def test_tokens_cut_off_in_the_middle_of_one_are_refused(tokens, raises):
    tokens.write_bytes(tokens.read_bytes()[:-1])
    with raises(DataError, f"{tokens}: its 205 bytes are no whole number of uint16: cut off, or of another dtype"):
        Tokens(tokens, 4)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_tokens_are_refused(count, tmp_path, raises):
    write_tokens(tmp_path / "a", TOKENS[:count])
    with raises(DataError, f"{tmp_path / 'a'}: {count} tokens are too few for a window of 4 and the token after it"):
        Tokens(tmp_path / "a", 4)


def test_tokens_cut_off_after_they_were_opened_are_refused(tokens, raises):
    source = pickle.loads(pickle.dumps(Tokens(tokens, 4)))
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with raises(DataError, f"{tokens} had 206 bytes when it was opened, and now has 204"):
        source[0]


@pytest.mark.parametrize("place", [20, 25, 30])  # the first, within, and the target of the last
def test_a_token_beyond_the_vocabulary_is_named_with_its_byte(place, tmp_path, raises):
    few = TOKENS % 100
    few[place] = 100
    write_tokens(tmp_path / "a", few)
    source = Tokens(tmp_path / "a", 10, vocabulary=100)
    with raises(DataError, f"{tmp_path / 'a'}: token {place}, at byte {2 * place}, is 100, not below 100"):
        source[2]
    source[0]


@pytest.mark.parametrize(("dtype", "found", "wanted"), [("uint32", 2**31, f"not below {2**31}"), ("int16", -1, "below 0")])
def test_a_token_that_no_int32_or_no_vocabulary_holds_is_named(dtype, found, wanted, tmp_path, raises):
    write_tokens(tmp_path / "a", np.array([1, 2, found, 3]), dtype=dtype)
    with raises(DataError, f"{tmp_path / 'a'}: token 2, at byte {2 * np.dtype(dtype).itemsize}, is {found}, {wanted}"):
        Tokens(tmp_path / "a", 3, dtype=dtype)[0]


@pytest.mark.parametrize(
    ("begin", "shown", "kind"),
    [
        (b"\x93NUMPY\1\0", "93 4e 55 4d 50 59 01 00", "NPY"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "1f 8b 08 00 00 00 00 00", "gzip"),
        (b"PAR1\x15\4\x15\0", "50 41 52 31 15 04 15 00", "Parquet"),
    ],
)
def test_a_file_of_another_kind_is_no_file_of_tokens(begin, shown, kind, tmp_path, raises):
    (tmp_path / "a").write_bytes(begin + bytes(92))
    with raises(DataError, f"{tmp_path / 'a'} is no file of tokens: at byte 0 it has {shown}; it looks like {kind}"):
        Tokens(tmp_path / "a", 4, dtype="uint8")


def test_a_token_that_only_shares_two_bytes_with_another_kind_is_one(tmp_path):
    write_tokens(tmp_path / "a", [0x8B1F, 7, 0xD8FF])  # as gzip and JPEG begin
    np.testing.assert_array_equal(Tokens(tmp_path / "a", 2, vocabulary=2**16)[0], [[0x8B1F, 7], [7, 0xD8FF]])


def test_a_folder_is_no_file_of_tokens(tmp_path):
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        Tokens(tmp_path, 1)


def test_a_vocabulary_beyond_int32_lets_no_token_wrap(tmp_path, raises):
    write_tokens(tmp_path / "a", np.array([1, 2**31 + 5, 3]), dtype="uint32")
    with raises(DataError, f"{tmp_path / 'a'}: token 1, at byte 4, is {2**31 + 5}, not below {2**31}"):
        Tokens(tmp_path / "a", 2, dtype="uint32")[0]
    with raises(ValueError, f"Tokens: vocabulary must be at most {2**31 - 1}, got {2**32}"):
        Tokens(tmp_path / "a", 2, dtype="uint32", vocabulary=2**32)


def test_tokens_of_no_length_or_no_whole_numbers_are_refused(tokens, raises):
    with raises(ValueError, "Tokens: vocabulary must be at least 1, got 0"):
        Tokens(tokens, 1, vocabulary=0)
    with raises(ValueError, "Tokens: length must be at least 1, got 0"):
        Tokens(tokens, 0)
    with raises(ValueError, "Tokens: dtype must be one of whole numbers, got float32"):
        Tokens(tokens, 1, dtype="float32")


def test_tokens_are_shown_as_they_were_asked_for(tokens):
    assert repr(Tokens(tokens, 5)) == f"Tokens({str(tokens)!r}, 5, dtype='uint16', vocabulary=None)"


def test_pieces_are_written_one_after_another(tmp_path):
    write_tokens(tmp_path / "a", (TOKENS[i : i + 10].tolist() for i in range(0, 103, 10)))
    assert (tmp_path / "a").read_bytes() == TOKENS.tobytes()
    write_tokens(tmp_path / "a", [3, 4])
    assert (tmp_path / "a").read_bytes() == b"\3\0\4\0"
    write_tokens(tmp_path / "a", [])
    assert (tmp_path / "a").read_bytes() == b""


@pytest.mark.parametrize("before", [None, b"\1\0"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([70_000], "write_tokens: 70000 to 70000 do not fit uint16"),
        ([5, -1], "write_tokens: -1 to 5 do not fit uint16"),
        ([1.5], "write_tokens: tokens are whole numbers, got float64"),
        (None, "no more"),
    ],
)
def test_what_cannot_be_written_leaves_the_file_as_it_was(bad, message, before, tmp_path, raises):
    if before:
        (tmp_path / "a").write_bytes(before)

    def pieces():
        yield TOKENS
        if bad is None:
            raise ValueError("no more")
        yield bad

    with raises(ValueError, message):
        write_tokens(tmp_path / "a", pieces())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({"a": before} if before else {})


# images


@pytest.fixture
def folder(tmp_path):
    """Five lossless pictures of two classes. -> the folder, and {relative path: pixels}"""
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    names = ["dog/b.png", "cat/2.PNG", "cat/10.bmp", "dog/old/a.tiff", "dog/c.gif"]
    rng = np.random.default_rng(0)
    pixels = {name: np.broadcast_to(rng.integers(0, 256, (4, 6, 1), np.uint8), (4, 6, 3)) for name in names}
    for name, array in pixels.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(array[..., 0] if name == "dog/c.gif" else array).save(path)
    (tmp_path / "pictures" / "dog" / "notes.txt").write_text("no picture")
    (tmp_path / "pictures" / "README").write_text("no class")
    return tmp_path / "pictures", pixels


def test_pictures_are_in_the_order_of_classes_and_names(folder):
    source = Images(folder[0])
    assert source.classes == ["cat", "dog"]
    names = ["cat/10.bmp", "cat/2.PNG", "dog/b.png", "dog/c.gif", "dog/old/a.tiff"]
    assert len(source) == len(names)
    for i, name in enumerate(names):
        pixels, label = source[i]
        assert (pixels.dtype, label.dtype, label) == (np.uint8, np.int32, ["cat", "dog"].index(name[:3]))
        np.testing.assert_array_equal(pixels, folder[1][name])


def test_pictures_are_scaled_to_height_and_width(folder):
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    pixels, _ = Images(folder[0], size=(2, 9))[0]
    scaled = image.fromarray(folder[1]["cat/10.bmp"]).resize((9, 2), image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels, np.asarray(scaled))
    assert pixels.shape == (2, 9, 3)


def test_a_damaged_picture_is_named(folder):
    path = folder[0] / "dog" / "b.png"
    content = path.read_bytes()
    source = Images(folder[0])
    for damaged in (b"", b"text", content[:20], content[:60], content[:45] + b"\xff\xff" + content[47:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"^{re.escape(str(path))} is no picture, or a damaged one: "):
            source[2]
    source[3]


def test_a_folder_without_pictures_says_what_it_wants(tmp_path, raises):
    (tmp_path / "cat").mkdir()
    with raises(DataError, f"{tmp_path}: no pictures in folders below it; it wants {tmp_path}/CLASS/PICTURE.png"):
        Images(tmp_path)


def test_a_class_without_pictures_is_named(folder, raises):
    for name in ("ant", "bee/old"):
        (folder[0] / name).mkdir(parents=True)
    with raises(DataError, f"{folder[0]}: no pictures of the class ant, bee: remove the folder, or fill it"):
        Images(folder[0])


def test_what_is_hidden_is_passed_over(folder):
    for name in (".cache/a.png", "dog/._b.png", "dog/.thumbs/b.png"):
        (folder[0] / name).parent.mkdir(exist_ok=True)
        (folder[0] / name).write_bytes(b"no picture")
    source = Images(folder[0])
    assert source.classes == ["cat", "dog"]
    assert [int(source[i][1]) for i in range(len(source))] == [0, 0, 1, 1, 1]


# by the standard, where the first row and the first column of the file lie in the picture
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_turned_as_its_camera_was(orientation, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    exif = image.Exif()
    exif[0x112] = orientation
    (tmp_path / "a").mkdir()
    image.fromarray(np.repeat(gray[..., None], 3, -1)).save(tmp_path / "a" / "b.png", exif=exif)
    pixels, _ = Images(tmp_path)[0]
    np.testing.assert_array_equal(pixels, np.repeat(TURNS[orientation](gray)[..., None], 3, -1))


def png(pixels) -> bytes:
    """By hand, as Pillow writes no colours of 16 bits. pixels: uint16 (height, width, 3)"""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    chunks = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in parts.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("name", ["gray.png", "whole.tiff", "real.tiff", "colour.png"])
def test_pictures_of_more_than_8_bits_are_refused(name, tmp_path, raises):
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    numbers, path = np.arange(48).reshape(4, 4, 3) * 1000, tmp_path / "a" / name
    path.parent.mkdir()
    if name == "colour.png":
        path.write_bytes(png(numbers))
        with image.open(path) as opened:
            assert opened.mode == "RGB"  # Pillow takes it for one of 8 bits
    else:
        dtype = {"gray.png": np.uint16, "whole.tiff": np.int32, "real.tiff": np.float32}[name]
        image.fromarray(numbers[..., 0].astype(dtype)).save(path)
    with raises(DataError, f"{path} has more than 8 bits a channel"):
        Images(tmp_path)[0]


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (4, TypeError, "Images: size must be a sequence of whole numbers, as (4,) is, got 4"),
        ((4,), ValueError, "Images: size is (height, width), got (4,)"),
        ((0, 4), ValueError, "Images: size must be at least 1, got 0"),
    ],
)
def test_a_size_of_something_else_is_refused_at_once(size, error, message, folder, raises):
    with raises(error, message):
        Images(folder[0], size=size)


# tables


@pytest.fixture(scope="module")
def pa():
    pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    return pytest.importorskip("pyarrow")


def columns(pa):
    rng = np.random.default_rng(0)
    names = ["int8", "uint8", "int32", "int64", "float16", "float32", "float64", "bool"]
    numbers = {name: rng.integers(0, 2 if name == "bool" else 99, 25).astype(name) for name in names}
    lists = rng.integers(0, 99, (25, 4))
    return {
        **numbers,
        "list": pa.array(lists.tolist(), pa.list_(pa.float32())),
        "sized": pa.array(lists.tolist(), pa.list_(pa.uint8(), 4)),
        "square": pa.array(lists.reshape(25, 2, 2).tolist(), pa.list_(pa.large_list(pa.int16()))),
        "text": [f"ä{i}" for i in range(25)],
        "topic": pa.array([["u", "v"][i % 2] for i in range(25)]).dictionary_encode(),
        "gaps": pa.array([None if i % 5 == 0 else i for i in range(25)], pa.int16()),
    }


def write_table(pa, path, table, *, rows=10):
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        parquet.write_table(table, path, row_group_size=rows, write_page_checksum=True)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=rows)
    return path


@pytest.fixture(params=["arrow", "parquet"])
def path(pa, tmp_path, request):
    return write_table(pa, tmp_path / f"table.{request.param}", pa.table(columns(pa)))


def test_rows_have_the_values_and_dtypes_of_their_columns(pa, path):
    source = Table(path)
    wanted = columns(pa)
    dtypes = {"list": "float32", "sized": "uint8", "square": "int16", "gaps": "int16"}
    assert len(source) == 25
    for i in [0, 24, 9, 10, 19, 20, 1]:  # over the ends of the groups, and back
        row = source[i]
        assert list(row) == list(wanted)
        for name, values in wanted.items():
            value = values[i].as_py() if isinstance(values, pa.Array) else values[i]
            if name in ("text", "topic") or value is None:
                assert row[name] == value
            else:
                assert row[name].dtype == np.dtype(dtypes.get(name, name))
                np.testing.assert_array_equal(row[name], value)
    for i in (-1, 25):
        with pytest.raises(IndexError, match=f"row {i} of 25$"):
            source[i]


def test_columns_can_be_chosen(path, raises):
    assert list(Table(path, columns=["text", "int8"])[3]) == ["text", "int8"]
    with pytest.raises(DataError, match=r"has no column left, right; it has int8, uint8, .*, topic, gaps$"):
        Table(path, columns=["right", "int8", "left"])


def test_no_more_groups_are_kept_than_asked(path):
    source = Table(path, groups=2)
    for i in range(25):
        source[i]
    assert source._group.cache_info().currsize == 2
    assert source._group.cache_info().misses == 3


def test_threads_read_the_same_rows(path):
    wanted, found = [Table(path, columns=["list"])[i]["list"] for i in range(25)], {}
    source = Table(path, columns=["list"], groups=1)
    orders = [np.random.default_rng(i).permutation(25) for i in range(8)]
    threads = [threading.Thread(target=lambda n=n: found.update({n: [source[i]["list"] for i in orders[n]]})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, order in enumerate(orders):
        np.testing.assert_array_equal(found[n], [wanted[i] for i in order])


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_a_table_cut_off_at_any_byte_is_refused_with_its_size(suffix, pa, tmp_path):
    path = write_table(pa, tmp_path / f"table.{suffix}", pa.table({"a": [1, 2, 3], "b": [[1.0], [2.0], [3.0]]}), rows=2)
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(DataError) as error:
            Table(path)
        place = (
            f", of {size} bytes, is damaged or cut off: " if size >= 7 else " is neither Parquet nor Arrow: at byte 0 it has "
        )
        assert str(error.value).startswith(f"{path}{place}")


def test_a_flipped_byte_of_a_page_with_a_checksum_is_refused_by_its_group(pa, tmp_path):
    import pyarrow.parquet as parquet

    path = write_table(pa, tmp_path / "table.parquet", pa.table({"a": np.arange(4000.0)}), rows=2000)
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    source = Table(path)
    assert source[1999]["a"] == 1999
    with pytest.raises(DataError, match=r", of \d+ bytes, is damaged or cut off in its row group 1: .*CRC"):
        source[2000]


def test_what_cannot_be_an_array_is_refused(pa, tmp_path, raises):
    lists = {
        "gaps": [[1, None], [1, 2]],
        "reals": [[1.5, None], [1.5, 2.0]],
        "bools": [[True, None], [True, False]],
        "deep": [[[1.5], [None]], [[1.5], [2.0]]],
        "uneven": [[[1], [1, 2]], [[1], [2]]],
    }
    path = write_table(pa, tmp_path / "a.arrow", pa.table({**lists, "day": pa.array([0, 1], pa.date32())}))
    for name in lists:
        source = Table(path, columns=[name])
        with pytest.raises(DataError, match="row 0 has a list with nulls or of lists of unequal lengths"):
            source[0]
        np.testing.assert_array_equal(source[1][name], lists[name][1])
    with raises(DataError, f"{path}: column day holds date32[day], neither numbers, lists of them nor text"):
        Table(path)


def test_a_name_of_several_columns_or_several_in_a_string_is_refused(pa, tmp_path, raises):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "b"])
    for suffix in ("arrow", "parquet"):
        path = write_table(pa, tmp_path / f"a.{suffix}", table)
        with raises(DataError, f"{path} has 2 columns of the name a"):
            Table(path)
        assert Table(path, columns=["b"])[0] == {"b": 3}
        with raises(TypeError, "Table: columns are several names, as ['ab'] is, got 'ab'"):
            Table(path, columns="ab")


def test_other_files_are_no_tables(tmp_path, raises):
    (tmp_path / "a.parquet").write_bytes(b"\x89PNG\r\n\x1a\n")
    with raises(DataError, f"{tmp_path / 'a.parquet'} is neither Parquet nor Arrow: at byte 0 it has 89 50 4e 47 0d 0a 1a 0a"):
        Table(tmp_path / "a.parquet")


def test_a_table_of_no_rows_is_empty(pa, tmp_path):
    for suffix in ("arrow", "parquet"):
        source = Table(write_table(pa, tmp_path / f"a.{suffix}", pa.table({"a": pa.array([], pa.int8())})))
        assert len(source) == 0
        with pytest.raises(ValueError, match="the source is empty"):
            data.stream(source, batch_size=1)


def test_sources_travel_to_another_process_as_paths(tokens, folder, path):
    sources = [Tokens(tokens, 5), Images(folder[0]), Table(path, columns=["int32", "text"])]
    examples = [str(source[4]) for source in sources]  # mapped and opened by now
    code = "import pickle, sys; print([str(source[4]) for source in pickle.load(sys.stdin.buffer)])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(sources),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == str(examples)
