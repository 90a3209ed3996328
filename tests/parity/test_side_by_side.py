"""What threads and processes share: records, files, folders, and the answers of workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf.parity._records import Records
from dlf.training.callbacks import make_run_folder
from dlf.training.engine.feeds import Stream
from dlf.training.engine.plan import runner_of
from dlf.utils.errors import BackendError
from dlf.utils.files import whole_file
from dlf.utils.workers import Session, WorkerProgress, run_worker

pytestmark = pytest.mark.once

TALKER = """
import json, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from dlf.utils.workers import report_progress, serve

LIES = {"found": "not mine", "progress": {"text": "nothing"}, "refused": ["BackendError", "no"]}
LOUD = ["no newline", json.dumps(LIES) + "\\n"]

def respond(request):
    over = threading.Event()
    def talk():
        while not over.is_set():
            for text in LOUD:
                print(text, end="", flush=True)
                os.write(1, text.encode())
    talkers = [threading.Thread(target=talk) for _ in range(4)]
    for each in talkers:
        each.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: report_progress(f"{n} " * 2_000), range(request["count"])))
    over.set()
    for each in talkers:
        each.join()
    return {"read": sys.stdin.read(), "much": "x" * 1_000_000}

if __name__ == "__main__":
    print("imported", end="", flush=True)
    os.write(2, b"no text: \\xff")
    serve(respond, once={"once": True, "serve": False}[os.environ["TALKER"]])
"""


@pytest.fixture
def talker(tmp_path: Path) -> Mapping[str, str]:
    (tmp_path / "talker.py").write_text(TALKER)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("way", ["once", "serve"])
def test_an_answer_arrives_whole_whatever_is_printed_meanwhile(talker: Mapping[str, str], way: str) -> None:
    """Python, C and threads print text that looks like an answer; code that reads stdin does not take a request."""
    heard: list[WorkerProgress] = []
    environment = {**talker, "TALKER": way}
    if way == "once":
        found = run_worker("talker", {"count": 20}, environment, title="x", on_progress=heard.append, timeout=60)
    else:
        session = Session("talker", environment, title="x", timeout=60)
        try:
            found = [session.ask({"do": "talk", "count": 10}, heard.append) for _ in range(2)][-1]
        finally:
            session.close()
    assert found == {"read": "", "much": "x" * 1_000_000}
    times = {"once": 1, "serve": 2}[way]
    assert sorted(map(str, heard)) == sorted(f"{n} " * 2_000 for n in range(20 // times) for _ in range(times))


def test_last_words_that_are_no_text_are_shown_all_the_same(talker: Mapping[str, str]) -> None:
    with pytest.raises(BackendError, match=r"ended with code 1.*\n.*no text: \ufffd"):
        run_worker("talker", {}, {**talker, "TALKER": "nobody"}, title="x")


def test_records_are_read_by_many_threads_at_once(tmp_path: Path) -> None:
    records = Records(tmp_path)
    arrays = {f"small {n}": np.full(50, float(n)) for n in range(200)}
    arrays |= {f"large {n}": np.random.default_rng(n).normal(size=2**18) for n in range(4)}
    arrays |= {"one": np.array(1.5), "none": np.zeros((0, 3)), "bfloat16": np.ones(7, "bfloat16")}
    for name, array in arrays.items():
        records[name] = array

    def is_read(name: str) -> bool:
        return np.array_equal(records[name], arrays[name])

    with ThreadPoolExecutor(8) as pool:
        # The first reads finish the file that was being written.
        assert all(pool.map(is_read, list(arrays) * 20))


def test_reading_parses_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing in several threads fails now and then on Python 3.11.7 and earlier: NumPy's own reader parses."""

    def parse(*_: Any, **__: Any) -> Any:
        raise AssertionError("parsed")

    arrays = {"float": np.eye(3)[:, ::2], "bool": np.array([True, False]), "none": np.zeros((0, 3), "int32")}
    arrays |= {"bfloat16": np.ones((2, 1), "bfloat16"), "number": np.array(2.5), "complex": np.full(2, 1j, "complex64")}
    records = Records(tmp_path)
    for name, array in arrays.items():
        records[name] = array
    records.close()
    with np.load(tmp_path / "records.npz") as stored:
        assert set(stored) == set(arrays)
        np.testing.assert_array_equal(stored["float"], arrays["float"])
    with monkeypatch.context() as patch:
        patch.setattr("ast.literal_eval", parse)
        found_in = {name: Records(tmp_path)[name] for name in arrays}
    for name, array in arrays.items():
        found = found_in[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


def test_a_file_that_several_threads_write_is_one_of_theirs(tmp_path: Path) -> None:
    path, together = tmp_path / "report.json", threading.Barrier(4)

    def write(number: int) -> None:
        with whole_file(path) as place:
            together.wait()
            place.write_text(str(number) * 1_000)
            together.wait()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert path.read_text() in [str(number) * 1_000 for number in range(4)]
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


def test_several_runs_may_have_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: make_run_folder(tmp_path / "run"), range(1_000))) == {tmp_path / "run"}
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.skipif(keras.config.backend() != "jax", reason="JAX alone answers for each thread by itself")
def test_what_is_read_ahead_in_another_thread_keeps_its_64_bits() -> None:
    import jax

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    batches = [(np.ones((2, 1), "float32"), np.full((2, 1), 2**40))]
    for wide, dtype in ((False, "int32"), (True, "int64")):
        with jax.enable_x64(wide):
            feed = Stream(batches, lambda: iter(batches), runner_of(model), "", ahead=True)
            (piece,) = feed.pieces()
            assert piece.data[1].dtype == dtype
