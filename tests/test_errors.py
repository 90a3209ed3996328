from __future__ import annotations

import pytest

from dlf import errors


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


def test_no_advice_where_nothing_is_near() -> None:
    assert errors.did_you_mean("zzz", ["digits"]) == ""
