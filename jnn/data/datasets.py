"""Real data sets, as numpy arrays.

Files are looked for in the folder that `JNN_DATA_DIR` names, then in the cache (`pooch.os_cache("jnn")`), then fetched from
their official address into the cache. Each is checked against its SHA-256 every time it is read.
"""

import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

FASHION_MNIST = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
FASHION_MNIST_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"


class DataError(RuntimeError):
    """A data set cannot be had, or is not what it should be. The message says what, where, and what to do."""


class MissingDataError(DataError):
    """A data set is neither on this machine nor to be fetched."""


def digits():
    """-> images float32 (1797, 8, 8, 1) in [0, 1], labels int32 (1797,) in [0, 10).

    Handwritten digits, bundled with scikit-learn (Alpaydin & Kaynak 1998, the test part of UCI's optdigits)."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.asarray(bunch.images[..., None] / 16, np.float32), np.asarray(bunch.target, np.int32)


def fashion_mnist():
    """-> (images, labels), (test images, test labels): uint8 (60000 and 10000, 28, 28, 1), int32 labels in [0, 10).

    Grey pictures of clothes in ten balanced classes, MIT licence (Xiao, Rasul & Vollgraf 2017). 30 MB."""
    files = {name: _fetch("fashion-mnist", name, sha256, FASHION_MNIST_ADDRESS) for name, sha256 in FASHION_MNIST.items()}

    def part(name):
        images, labels = (_read_idx(files[f"{name}-{kind}-ubyte.gz"]) for kind in ("images-idx3", "labels-idx1"))
        return images[..., None], labels.astype(np.int32)

    return part("train"), part("t10k")


def _fetch(folder: str, name: str, sha256: str, address: str) -> Path:
    import pooch

    own = os.environ.get("JNN_DATA_DIR")
    if own:
        path = Path(own) / folder / name
        if path.is_file():
            _check(path, sha256, f"replace it, or take it away to have it fetched from {address}")
            return path
    cache = Path(pooch.os_cache("jnn")) / folder
    if (cache / name).is_file():
        _check(cache / name, sha256, "delete it to have it fetched again")
        return cache / name
    try:
        fetched = pooch.retrieve(f"{address}/{name}", known_hash=f"sha256:{sha256}", fname=name, path=cache, progressbar=False)
    except ValueError as error:  # pooch's word for a wrong hash; nothing is kept then
        raise DataError(
            f"{name} as fetched from {address} is not the file it should be (its SHA-256 is not {sha256})"
        ) from error
    except OSError as error:  # every network error that requests and urllib3 raise, and a cache that cannot be written
        looked = f"{Path(own) / folder} (JNN_DATA_DIR), " if own else ""
        raise MissingDataError(
            f"{folder} is missing: {name} is neither in {looked}{cache} nor could it be fetched from {address} "
            f"({type(error).__name__}); set JNN_DATA_DIR to a folder that holds {folder}/{name}, or connect to the network"
        ) from error
    return Path(fetched)


def _check(path: Path, sha256: str, remedy: str):
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{path} is corrupted: its SHA-256 is {found}, not {sha256}; {remedy}")


def _read_idx(path: Path) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    axes = content[3]  # two zero bytes, the type (8: unsigned byte), the number of axes, then each length in big endian
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape.astype(int))
