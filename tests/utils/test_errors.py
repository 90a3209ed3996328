from __future__ import annotations

import pickle

import pytest

from dlf.utils import errors


def test_a_message_names_argument_expected_received_and_advice() -> None:
    error = errors.InvalidArgumentError("epochs", expected="a positive integer", received=0, advice="Give 1 or more.")
    assert str(error) == "epochs: expected a positive integer, received 0. Give 1 or more."


def test_a_long_value_is_cut() -> None:
    message = str(errors.InvalidArgumentError("labels", expected="few", received="x" * 10_000))
    assert len(message) < 300
    assert "..." in message


def test_a_missing_package_comes_with_its_command() -> None:
    error = errors.MissingPackageError("the backend 'jax'", package="jax", command="pip install jax")
    assert "Install it with: pip install jax" in str(error)


@pytest.mark.parametrize(
    ("error", "builtin", "exit_code"),
    [
        (errors.InvalidArgumentError, ValueError, 2),
        (errors.OutputError, OSError, 2),
        (errors.DatasetError, OSError, 3),
        (errors.MissingPackageError, ImportError, 3),
        (errors.BackendError, RuntimeError, 3),
        (errors.TrainingError, RuntimeError, 1),
    ],
)
def test_each_is_a_dlf_error_a_builtin_one_and_has_an_exit_code(
    error: type[errors.DlfError], builtin: type[Exception], exit_code: int
) -> None:
    assert issubclass(error, errors.DlfError)
    assert issubclass(error, builtin)
    assert error.exit_code == exit_code


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgumentError("epochs", expected="a positive integer", received=0),
        errors.MissingPackageError("the backend 'jax'", package="jax", command="pip install jax"),
        errors.DatasetError("damaged"),
    ],
)
def test_an_error_survives_the_way_from_a_worker(error: errors.DlfError) -> None:
    came = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes.
    assert type(came) is type(error)
    assert str(came) == str(error)
    assert vars(came) == vars(error)


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, None])
def test_counts_are_positive_integers(value: object) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="rows: expected a positive integer, received"):
        errors.check_positive("rows", value)


def test_no_advice_where_nothing_is_near() -> None:
    assert errors.did_you_mean("zzz", ["digits"]) == ""
