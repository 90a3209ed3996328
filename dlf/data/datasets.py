"""Loads image data sets: from TFDS by name, from IDX files, or the embedded digits, which need no download.

Requirements:

* the call and the description `info` are the same for every source of the data;
* TensorFlow is imported only on the TensorFlow backend, or if the data come from TFDS;
* the network is used only if TFDS has to download a data set that is in no folder.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import keras
import numpy as np

from dlf.data._idx import read_idx, read_idx_shape
from dlf.data.array_dataset import ArrayDataset
from dlf.utils.errors import DatasetError, InvalidArgumentError, MissingPackageError, did_you_mean

__all__ = ["ClassLabel", "DatasetInfo", "ImageFeature", "SplitInfo", "load_tfds_dataset"]

_DIGITS = tuple("0123456789")
_IDX_CLASSES: dict[str, tuple[str, ...]] = {
    "mnist": _DIGITS,
    # Source of the names: the label table of the zalandoresearch/fashion-mnist repository.
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}
_IDX_PREFIXES = {"train": "train", "test": "t10k"}


def load_tfds_dataset(
    name: str,
    split: Any = "train",
    *,
    with_info: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    **tfds_options: Any,
) -> Any:
    """Loads a data set whose elements are ``(image, label)``.

    The data set is looked for in this order: ``"digits"`` is embedded; IDX files in `data_dir`/`name` or `data_dir`;
    a TFDS data set prepared in `data_dir`; a download by TFDS.

    Args:
        name: ``"digits"`` (1,797 real 8×8 scans, with pixels scaled to 0 to 255; every fifth is in the test set), the
            name of a data set whose IDX files are in a folder, or any TFDS name.
        split: ``"train"``, ``"test"``, a slice such as ``"train[:80%]"``, several of these joined by ``+``, a list of
            splits, or `None` for a dictionary of all splits.
        with_info: Whether to return the description, too: ``info.features["label"].num_classes`` and so on.
        data_dir: The folder; by default that of the environment variable ``DLF_DATA_DIR``, else TFDS's own.
        download: Whether TFDS may download a data set that is not prepared yet.
        **tfds_options: Passed on to `tfds.load`, for data from TFDS.

    Returns:
        A `tf.data.Dataset` on the TensorFlow backend and for data from TFDS, else an `ArrayDataset` with the same
        methods. With `with_info`, a pair of the data set and the description.

    Raises:
        InvalidArgumentError: The data set or the split is unknown, or the folder does not exist.
        DatasetError: Files are absent or damaged, or there is no network.
        MissingPackageError: TFDS or TensorFlow is needed and not installed.

    Example:
        >>> train, info = load_tfds_dataset("digits", split="train", with_info=True)
        >>> info.features["label"].num_classes, info.splits["train"].num_examples, info.features["image"].shape
        (10, 1437, (8, 8, 1))
    """
    folder = _data_folder(data_dir)
    local = _open_local(name, folder)
    if local is None:
        options = {"split": split, "with_info": with_info, "download": download, **tfds_options}
        return _load_from_tfds(name, folder, options)
    if tfds_options not in ({}, {"as_supervised": True}):
        raise InvalidArgumentError(
            "tfds_options", expected="none, for data that are read without TFDS", received=tfds_options
        )
    loaded = _map_splits(split, local.info, lambda one: _as_dataset(local, one))
    return (loaded, local.info) if with_info else loaded


@dataclass(frozen=True)
class ImageFeature:
    """The shape ``(height, width, channels)`` and the dtype of the images."""

    shape: tuple[int, ...]
    dtype: Any = np.uint8


@dataclass(frozen=True)
class ClassLabel:
    """The class names of the labels: label i means ``names[i]``."""

    names: list[str]
    shape: tuple[int, ...] = ()
    dtype: Any = np.int64

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.names)

    def int2str(self, label: int) -> str:
        """Returns the name of a class."""
        return self.names[int(label)]

    def str2int(self, name: str) -> int:
        """Returns the number of a class."""
        return self.names.index(name)


@dataclass(frozen=True)
class SplitInfo:
    """The name of a split, and its number of examples."""

    name: str
    num_examples: int


@dataclass(frozen=True)
class DatasetInfo:
    """The description of a data set, with the most used attributes of `tfds.core.DatasetInfo` under the same names."""

    name: str
    features: dict[str, Any]
    splits: dict[str, SplitInfo]
    description: str = ""
    citation: str = ""
    supervised_keys: tuple[str, str] = ("image", "label")


class _LocalDataset:
    """A data set that is read without TFDS: its description `info`, and the arrays of each split."""

    def __init__(
        self, name: str, classes: tuple[str, ...], image_shape: tuple[int, ...], sizes: dict[str, int], description: str
    ) -> None:
        self.info = DatasetInfo(
            name,
            {"image": ImageFeature((*image_shape, 1)), "label": ClassLabel(list(classes))},
            {split: SplitInfo(split, size) for split, size in sizes.items()},
            description,
        )

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError


class _Digits(_LocalDataset):
    def __init__(self) -> None:
        description = "Handwritten digits, 8×8: the test set of UCI's optical recognition data, as in scikit-learn."
        labels = _load_digits().target
        self._test = np.arange(len(labels)) % 5 == 0
        sizes = {"train": int((~self._test).sum()), "test": int(self._test.sum())}
        super().__init__("digits", _DIGITS, (8, 8), sizes, description)

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        digits = _load_digits()
        chosen = self._test if split == "test" else ~self._test
        # The scans have 17 levels, 0 to 16. Scaled to a byte, they can be preprocessed like any other image.
        images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        return images[..., np.newaxis], digits.target[chosen].astype(np.int64)


class _IdxFolder(_LocalDataset):
    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder
        self._labels = {split: read_idx(self._file(split, "labels"), axes=1) for split in _IDX_PREFIXES}
        sizes, shapes = {}, {}
        for split, labels in self._labels.items():
            file = self._file(split, "images")
            sizes[split], *shapes[split] = read_idx_shape(file, axes=3)
            if sizes[split] != len(labels):
                raise DatasetError(
                    f"{file}: expected {len(labels):,} images, one for each label in "
                    f"{self._file(split, 'labels').name}, received {sizes[split]:,}. Fetch both files again."
                )
        if shapes["train"] != shapes["test"]:
            raise DatasetError(
                f"{folder}: expected images of one size, received {shapes['train']} and {shapes['test']}."
            )
        largest = max((int(labels.max()) for labels in self._labels.values() if len(labels)), default=0)
        known = _IDX_CLASSES.get(name, ())
        classes = known if largest < len(known) else tuple(map(str, range(largest + 1)))
        super().__init__(name, classes, tuple(shapes["train"]), sizes, f"The IDX files in {folder}.")

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        images = read_idx(self._file(split, "images"), axes=3)
        return images[..., np.newaxis], self._labels[split].astype(np.int64)

    def _file(self, split: str, kind: str) -> Path:
        return _idx_file(self._folder, split, kind)


@functools.cache
def _load_digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits()


def _idx_file(folder: Path, split: str, kind: str) -> Path:
    """Returns the path of the gzipped file, as it is published, or of the unpacked file if only that exists."""
    unpacked = folder / f"{_IDX_PREFIXES[split]}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
    gzipped = unpacked.with_name(unpacked.name + ".gz")
    return unpacked if unpacked.exists() and not gzipped.exists() else gzipped


def _data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    argument, value = (
        ("data_dir", data_dir) if data_dir is not None else ("DLF_DATA_DIR", os.environ.get("DLF_DATA_DIR") or None)
    )
    if value is None:
        return None
    folder = Path(value).expanduser()
    if not str(value) or not folder.is_dir():
        raise InvalidArgumentError(
            argument, expected="a folder that exists", received=str(value), advice="Create it, or correct the path."
        )
    return folder


def _open_local(name: str, folder: Path | None) -> _LocalDataset | None:
    """Returns the data set if it can be read without TFDS, else None."""
    if name == "digits":
        return _Digits()
    if folder is None:
        return None
    for candidate in (folder / name, folder):
        files = [_idx_file(candidate, split, kind) for split in _IDX_PREFIXES for kind in ("images", "labels")]
        if not any(file.exists() for file in files):
            continue
        if candidate == folder and name not in _IDX_CLASSES and folder.name != name:
            # IDX files do not name their data set: without this check, any misspelt name would load them.
            raise InvalidArgumentError(
                "name",
                expected=f"one of {', '.join(['digits', *_IDX_CLASSES])}, for the IDX files in {folder}",
                received=name,
                advice=f"Files of another data set go into a folder of their own: {folder / name}.",
            )
        return _IdxFolder(name, candidate)
    return None


def _as_dataset(local: _LocalDataset, split: str) -> Any:
    images, labels = _sliced(local, split)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices((images, labels))
    return ArrayDataset(images, labels)


def _map_splits(split: Any, info: DatasetInfo, load: Any) -> Any:
    """Loads one split, a list or tuple of splits, or a dictionary of all, according to `split`, as TFDS does."""
    if split is None:
        return {name: load(name) for name in info.splits}
    if isinstance(split, list | tuple):
        return type(split)(load(each) for each in split)
    return load(split)


_SPLIT = re.compile(r"(?P<name>\w+)(\[(?P<from>-?\d+%?)?:(?P<to>-?\d+%?)?\])?")


def _sliced(local: _LocalDataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the arrays of a split in TFDS's notation, such as ``train[:80%]+test[10:20]``."""
    parts = []
    for part in str(split).split("+"):
        match = _SPLIT.fullmatch(part.strip())
        if not match or match["name"] not in local.info.splits:
            raise InvalidArgumentError(
                "split",
                expected=f"one of {', '.join(local.info.splits)}, or a slice such as 'train[:80%]'",
                received=split,
            )
        size = local.info.splits[match["name"]].num_examples
        chosen = slice(*(_boundary(match[end], size) for end in ("from", "to")))
        parts.append([array[chosen] for array in local.arrays(match["name"])])
    images, labels = (np.concatenate(column) if len(column) > 1 else column[0] for column in zip(*parts, strict=True))
    return images, labels


def _boundary(text: str | None, size: int) -> int | None:
    if text is None:
        return None
    # TFDS rounds a percentage to the nearest example.
    return round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)


def _load_from_tfds(name: str, folder: Path | None, options: dict[str, Any]) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        named = "no folder was named by data_dir or DLF_DATA_DIR"
        searched = named if folder is None else f"{folder} has no IDX files of it"
        raise MissingPackageError(
            f"the data set {name!r} (only 'digits' is embedded, and {searched})",
            package=error.name or "tensorflow_datasets",
            command=_INSTALL_TFDS,
        ) from error
    try:
        builder = tfds.builder(name, data_dir=folder)
        if not builder.is_prepared():
            _check_that_it_can_be_fetched(builder, folder, download=options["download"])
        return tfds.load(name, data_dir=folder, **{"as_supervised": True, "try_gcs": False, **options})
    except tfds.core.DatasetNotFoundError:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        raise InvalidArgumentError(
            "name",
            expected=f"'digits' or one of TFDS's {len(known) - 1:,} data sets",
            received=name,
            advice=did_you_mean(name, known),
        ) from None  # TFDS's own message lists all of its data sets.
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"the data set {name!r} from TFDS",
            package=error.name or "tensorflow",
            command=_INSTALL_TFDS,
        ) from error
    except ConnectionError as error:
        raise DatasetError(f"{name}: the download broke off ({error}). {_WITHOUT_NETWORK}") from error
    except ValueError as error:
        if "split" not in str(error).lower():
            raise
        known = list(builder.info.splits)
        raise InvalidArgumentError("split", expected=f"one of {', '.join(known)}", received=options["split"]) from error


_INSTALL_TFDS = "pip install tensorflow tensorflow-datasets importlib_resources"
_WITHOUT_NETWORK = (
    "Connect to the network, name a folder that holds the data with data_dir or DLF_DATA_DIR (a prepared TFDS data "
    "set, or the data set's own IDX .gz files), or take 'digits', which needs no download."
)


def _check_that_it_can_be_fetched(builder: Any, folder: Path | None, *, download: bool) -> None:
    """Raises at once if the download is not allowed or there is no network; TFDS would retry for minutes first."""
    if not download:
        raise DatasetError(
            f"{builder.name}: expected a data set that is prepared in {builder.data_path.parent}, found none. "
            "Allow the download, or correct data_dir."
        )
    hosts = {urlsplit(url).hostname for url in builder.url_infos} - {None}
    if getproxies() or not hosts:
        return  # Behind a proxy, it may be that only the proxy can resolve names.
    try:
        socket.getaddrinfo(min(map(str, hosts)), None)
    except OSError as error:
        searched = "" if folder is None else f" {folder} has neither its IDX files nor a prepared TFDS data set."
        raise DatasetError(
            f"{builder.name}: has to be downloaded, and there is no network.{searched} {_WITHOUT_NETWORK}"
        ) from error
