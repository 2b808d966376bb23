"""Real data sets, as numpy arrays.

Files are looked for in the folder that `JNN_DATA_DIR` names, then in the cache (`pooch.os_cache("jnn")`), then fetched from
their official address into the cache, in up to three attempts. Each is checked against its SHA-256 every time it is read.
"""

import csv
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from jnn.data.errors import DataError, MissingDataError
from jnn.data.readers import idx, npz
from jnn.types import Graph

FASHION_MNIST = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
FASHION_MNIST_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
TINY_SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINY_SHAKESPEARE_ADDRESS = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare"
CORA = "f2969280c6f315032534f1fde24c321785dbf51109f3c127c70c6de37b2921a0"
TIME_SERIES = {
    "sunspots": "f67889b1d9002cd5227f0e0ef54e35b419cdd85a31279adef6f73fb41e5c0a9b",
    "co2": "16695fa2786e53414e5a6b54767a3fdf5de99cfbc68617f69d1362d92776a92f",
}
PICTURES = {
    "astronaut": ("astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    "chelsea": ("chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    "coffee": ("coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    "starry_night": ("starry_night_google.jpg", "c31741a09141c2e2d07fc7aa6bdf135c369b804f9433e43fa3ceac19386d1ee6"),
}
PICTURES_ADDRESS = "https://raw.githubusercontent.com/scikit-image/scikit-image/v0.25.2/skimage/data"
TIME_SERIES_ADDRESS = "https://raw.githubusercontent.com/statsmodels/statsmodels/v0.15.0/statsmodels/datasets"


def digits():
    """-> images float32 (1797, 8, 8, 1) in [0, 1], labels int32 (1797,) in [0, 10).

    Handwritten digits, bundled with scikit-learn (Alpaydin & Kaynak 1998, the test part of UCI's optdigits)."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.asarray(bunch.images[..., None] / 16, np.float32), np.asarray(bunch.target, np.int32)


def fashion_mnist():
    """-> (images, labels), (test images, test labels): uint8 (60000 and 10000, 28, 28, 1), int32 labels in [0, 10).

    Grey pictures of clothes in ten balanced classes, MIT licence (Xiao, Rasul & Vollgraf 2017). 30 MB."""
    files = {
        name: _fetch("fashion-mnist", name, sha256, f"{FASHION_MNIST_ADDRESS}/{name}") for name, sha256 in FASHION_MNIST.items()
    }

    def part(name):
        images, labels = (idx(files[f"{name}-{kind}-ubyte.gz"]) for kind in ("images-idx3", "labels-idx1"))
        return images[..., None], labels.astype(np.int32)

    return part("train"), part("t10k")


def tiny_shakespeare():
    """-> tokens int32 (1115394,) in [0, 65), and the 65 symbols that they number, a string in the order of ASCII.

    Plays of Shakespeare in a row, the data of char-rnn (Karpathy 2015), public domain. `symbols[token]` is the character.
    1 MB."""
    path = _fetch("tinyshakespeare", "input.txt", TINY_SHAKESPEARE, f"{TINY_SHAKESPEARE_ADDRESS}/input.txt")
    characters = np.frombuffer(path.read_bytes(), np.uint8)
    symbols, tokens = np.unique(characters, return_inverse=True)
    return tokens.astype(np.int32), symbols.tobytes().decode("ascii")


def cora():
    """-> Graph of 2,708 papers, labels int32 (2708,) in [0, 7), and the split (train, validation, test), int32 indices.

    Papers on machine learning: 1,433 words as nodes, float32 1 where the paper has the word, else 0; 5,278 citations as edges,
    listed both ways; the topic as label (Sen et al. 2008). The split is that of 140, 500 and 1,000 papers of Yang, Cohen &
    Salakhutdinov 2016. Their files are Python pickles, which run whatever code they hold, so nothing is fetched: the same
    arrays are read from `cora/cora.npz` in the folder that JNN_DATA_DIR names, or in the cache."""
    file = npz(_fetch("cora", "cora.npz", CORA, None))
    paper, word = file["features_nonzero"].T
    nodes = np.zeros((file["n_nodes"], file["n_features"]), np.float32)
    nodes[paper, word] = 1
    one, other = file["edges"].T
    graph = Graph(nodes, np.concatenate([one, other]), np.concatenate([other, one]))
    return graph, file["labels"].astype(np.int32), (file["train_idx"], file["val_idx"], file["test_idx"])


def sunspots():
    """-> years int32 (309,) 1700 to 2008, mean number of sunspots in each float32 (309,).

    Of the National Geophysical Data Center, as statsmodels has them; public domain. 3 KB."""
    rows = _time_series("sunspots")
    return np.array([year for year, _ in rows], np.int32), np.array([value for _, value in rows], np.float32)


def co2():
    """-> days datetime64[D] (2284,), a week apart, 1958 to 2001; carbon dioxide float32 (2284,) in parts per million, NaN in a
    week that was not measured.

    Air at Mauna Loa, Hawaii (Keeling & Whorf 2004), as statsmodels has it; public domain. 34 KB."""
    rows = _time_series("co2")
    days = np.array([f"{day[:4]}-{day[4:6]}-{day[6:]}" for day, _ in rows], "datetime64[D]")
    return days, np.array([value or "nan" for _, value in rows], np.float32)


def picture(name: str):
    """-> uint8 (height, width, 3), red, green and blue, of a photograph or a painting.

    name: "astronaut" (512 x 512, NASA, public domain), "chelsea", a cat (300 x 451, CC0), "coffee" (400 x 600, CC0), all three
        as scikit-image has them; "starry_night" (1014 x 1280; van Gogh 1889, public domain), which is not fetched but read
        from `pictures/starry_night_google.jpg` in the folder that JNN_DATA_DIR names, or in the cache.
    Raises ValueError for another name."""
    from PIL import Image

    if name not in PICTURES:
        raise ValueError(f"picture: name must be one of {', '.join(PICTURES)}, got {name!r}")
    file_name, sha256 = PICTURES[name]
    path = _fetch("pictures", file_name, sha256, f"{PICTURES_ADDRESS}/{file_name}" if file_name.endswith(".png") else None)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _time_series(name: str) -> list[list[str]]:
    address = f"{TIME_SERIES_ADDRESS}/{name}/{name}.csv"
    path = _fetch("timeseries", f"statsmodels_{name}.csv", TIME_SERIES[name], address)
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def _fetch(folder: str, name: str, sha256: str, address: str | None) -> Path:
    """The path of a checked file. address: where to have it from; None where there is none."""
    import pooch

    own = os.environ.get("JNN_DATA_DIR")
    if own:
        path = Path(own) / folder / name
        if path.is_file():
            _check(path, sha256, f"replace it, or take it away to have it fetched from {address}" if address else "replace it")
            return path
    cache = Path(pooch.os_cache("jnn")) / folder
    if (cache / name).is_file():
        _check(cache / name, sha256, "delete it to have it fetched again" if address else "replace it")
        return cache / name
    looked = f"{Path(own) / folder} (JNN_DATA_DIR)" if own else ""
    remedy = f"set JNN_DATA_DIR to a folder that holds {folder}/{name}"
    if address is None:
        places = f"neither in {looked} nor in {cache}" if own else f"not in {cache}"
        raise MissingDataError(f"{folder} is missing: {name} is {places}, and cannot be fetched; {remedy}")
    # under another name until it is whole and its hash is right: two processes may fetch it at once
    fetcher = pooch.create(cache, "", registry={name: f"sha256:{sha256}"}, urls={name: address}, retry_if_failed=2)
    try:
        fetched = fetcher.fetch(name)
    except ValueError as error:  # pooch's word for a wrong hash; nothing is kept then
        raise DataError(
            f"{name} as fetched from {address} is not the file it should be (its SHA-256 is not {sha256})"
        ) from error
    except OSError as error:  # every network error that requests and urllib3 raise, and a cache that cannot be written
        places = f"{looked}, {cache}" if own else cache
        raise MissingDataError(
            f"{folder} is missing: {name} is neither in {places} nor could it be fetched from {address} "
            f"({type(error).__name__}); {remedy}, or connect to the network"
        ) from error
    return Path(fetched)


def _check(path: Path, sha256: str, remedy: str):
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{path} is corrupted: its SHA-256 is {found}, not {sha256}; {remedy}")
