from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from idx_files import write_idx

from dlf.data.array_dataset import ArrayDataset
from dlf.data.datasets import load_tfds_dataset
from dlf.utils.errors import DatasetError, InvalidArgumentError, MissingPackageError

FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def elements(dataset: Any) -> list[tuple[np.ndarray, int]]:
    return [(np.asarray(image), int(label)) for image, label in dataset.as_numpy_iterator()]


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Seven training and three test images of 4 by 5 pixels, in three classes."""
    random = np.random.default_rng(2025)
    for prefix, size in (("train", 7), ("t10k", 3)):
        images = random.integers(0, 256, (size, 4, 5), np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(size) % 3).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_info_answers_alike(name: str, idx_folder: Path) -> None:
    train, info = load_tfds_dataset(name, split="train", with_info=True, data_dir=idx_folder)
    assert info.name == name
    assert info.features["label"].num_classes == 10
    assert info.features["label"].int2str(3) == "3"
    assert info.features["label"].str2int("3") == 3
    assert info.splits["train"].num_examples == len(elements(train))
    for image, label in elements(train)[:3]:
        assert image.shape == info.features["image"].shape
        assert image.dtype == info.features["image"].dtype
        assert 0 <= label < 10


def test_digits_are_split_in_a_fixed_way_and_every_scan_is_in_one_part() -> None:
    train, test = (elements(load_tfds_dataset("digits", split)) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    from sklearn.datasets import load_digits

    scans = load_digits()
    for place, (image, label) in zip(range(0, 1797, 5), test, strict=True):
        assert label == scans.target[place]
        np.testing.assert_array_equal(np.round(image[..., 0] * (16 / 255)), scans.images[place])
    assert max(image.max() for image, _ in train) == 255


def test_idx_files_are_read_in_order(idx_folder: Path) -> None:
    from dlf.data._idx import read_idx

    images = read_idx(idx_folder / "t10k-images-idx3-ubyte.gz", axes=3)
    test = elements(load_tfds_dataset("mnist", "test", data_dir=idx_folder))
    np.testing.assert_array_equal(np.stack([image[..., 0] for image, _ in test]), images)
    assert [label for _, label in test] == [0, 1, 2]


def test_the_folder_may_come_from_the_environment_and_the_data_from_a_folder_in_it(
    idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (idx_folder / "mine").mkdir()
    for file in FILES:
        (idx_folder / f"{file}.gz").rename(idx_folder / "mine" / f"{file}.gz")
    monkeypatch.setenv("DLF_DATA_DIR", str(idx_folder))
    train, info = load_tfds_dataset("mine", with_info=True)
    assert len(elements(train)) == 7
    assert info.features["label"].names == ["0", "1", "2"]


def test_the_type_fits_the_backend(idx_folder: Path) -> None:
    dataset = load_tfds_dataset("mnist", data_dir=idx_folder)
    assert isinstance(dataset, ArrayDataset) == (keras.config.backend() != "tensorflow")


@pytest.mark.parametrize(
    ("split", "places"),
    [
        ("train[:3]", [0, 1, 2]),
        ("train[-2:]", [5, 6]),
        ("train[50%:]", [4, 5, 6]),
        ("train[:1]+train[6:]", [0, 6]),
    ],
)
def test_splits_are_sliced_as_tfds_does(idx_folder: Path, split: str, places: list[int]) -> None:
    whole = elements(load_tfds_dataset("mnist", "train", data_dir=idx_folder))
    part = elements(load_tfds_dataset("mnist", split, data_dir=idx_folder))
    np.testing.assert_array_equal([image for image, _ in part], [whole[place][0] for place in places])


def test_several_splits_come_in_the_shape_they_were_asked_for(idx_folder: Path) -> None:
    train, test = load_tfds_dataset("mnist", ["train", "test"], data_dir=idx_folder)
    both = load_tfds_dataset("mnist", None, data_dir=idx_folder)
    assert [len(elements(each)) for each in (train, test, both["train"], both["test"])] == [7, 3, 7, 3]


@pytest.mark.parametrize("split", ["tran", "train[:x]", "train[", "", "train+", "train[:200%%]"])
def test_an_unknown_split_is_refused(idx_folder: Path, split: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"split: expected one of train, test, or a slice"):
        load_tfds_dataset("mnist", split, data_dir=idx_folder)


def test_idx_files_are_not_handed_out_under_any_name(idx_folder: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"name: expected one of digits, mnist, .* received 'cifar10'"):
        load_tfds_dataset("cifar10", data_dir=idx_folder)


@pytest.mark.parametrize("file", FILES)
def test_each_missing_file_is_named(idx_folder: Path, file: str) -> None:
    (idx_folder / f"{file}.gz").unlink()
    with pytest.raises(DatasetError, match=rf"{file}\.gz: the file is not there"):
        load_tfds_dataset("mnist", data_dir=idx_folder)


def test_images_and_labels_of_different_lengths_are_refused(idx_folder: Path) -> None:
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", np.zeros(6, np.uint8))
    with pytest.raises(DatasetError, match=r"expected 6 images, one for each label .* received 7"):
        load_tfds_dataset("mnist", data_dir=idx_folder)


def test_images_and_labels_in_each_others_place_are_refused(idx_folder: Path) -> None:
    write_idx(idx_folder / "train-images-idx3-ubyte.gz", np.zeros(7, np.uint8))
    with pytest.raises(DatasetError, match="Check that each file has its own name"):
        load_tfds_dataset("mnist", data_dir=idx_folder)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgumentError, match=r"data_dir: expected a folder that exists, received .*absent"):
        load_tfds_dataset("mnist", data_dir=tmp_path / "absent")
    monkeypatch.setenv("DLF_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(InvalidArgumentError, match="DLF_DATA_DIR: expected a folder"):
        load_tfds_dataset("mnist")


def test_options_of_tfds_are_refused_where_tfds_is_not_used() -> None:
    with pytest.raises(InvalidArgumentError, match="tfds_options"):
        load_tfds_dataset("digits", read_config=1)


def test_without_tfds_its_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(MissingPackageError, match="pip install tensorflow tensorflow-datasets importlib_resources"):
        load_tfds_dataset("mnist", data_dir=tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")

    class Tiny(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc, name-defined]  # TFDS has no types.
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": tfds.features.ClassLabel(num_classes=3)}
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
            )

        def _split_generators(self, _: Any) -> Any:
            return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

        def _generate_examples(self, count: int) -> Any:
            for key in range(count):
                yield key, {"image": np.full((4, 4, 1), key, np.uint8), "label": key % 3}

    Tiny(data_dir=folder).download_and_prepare()
    return folder


class TestTfds:
    """The real TFDS, on a data set that the test prepares."""

    def test_a_prepared_data_set_is_read(self, prepared: Path) -> None:
        train, info = load_tfds_dataset("tiny", with_info=True, data_dir=prepared)
        assert info.features["label"].num_classes == 3
        assert info.splits["train"].num_examples == 6
        assert info.features["image"].shape == (4, 4, 1)
        assert sorted(int(image[0, 0, 0]) for image, _ in elements(train)) == [0, 1, 2, 3, 4, 5]

    def test_an_unknown_split_is_refused(self, prepared: Path) -> None:
        with pytest.raises(InvalidArgumentError, match=r"split: expected one of train, test, received 'tran'"):
            load_tfds_dataset("tiny", "tran", data_dir=prepared)

    def test_an_unknown_name_is_refused_with_the_nearest(self, prepared: Path) -> None:
        with pytest.raises(
            InvalidArgumentError, match=r"received 'fashion_mnits'\. Did you mean 'fashion_mnist'\?"
        ) as e:
            load_tfds_dataset("fashion_mnits", data_dir=prepared)
        assert len(str(e.value)) < 300

    def test_without_a_network_it_says_so_at_once(self, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        with pytest.raises(DatasetError, match="fashion_mnist: has to be downloaded, and there is no network"):
            load_tfds_dataset("fashion_mnist", data_dir=prepared)

    def test_a_download_that_nobody_allowed_is_not_tried(self, prepared: Path) -> None:
        with pytest.raises(DatasetError, match="expected a data set that is prepared in"):
            load_tfds_dataset("fashion_mnist", data_dir=prepared, download=False)


def test_real_fashion_mnist_images(fashion_mnist_folder: Path) -> None:
    train, info = load_tfds_dataset("fashion_mnist", with_info=True, data_dir=fashion_mnist_folder)
    assert info.features["image"].shape == (28, 28, 1)
    assert info.features["label"].names[9] == "Ankle boot"
    counts = np.bincount([label for _, label in elements(train)])
    assert len(counts) == 10
    assert counts.sum() == info.splits["train"].num_examples
