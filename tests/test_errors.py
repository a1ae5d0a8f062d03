from __future__ import annotations

import pickle

import pytest

from hpcblaz import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("cls", CLASSES)
def test_is_documented_and_of_one_family(cls: type[Exception]) -> None:
    assert issubclass(cls, errors.HpcblazError)
    assert cls.__doc__ and cls.__doc__ != Exception.__doc__


@pytest.mark.parametrize("cls", CLASSES)
def test_survives_pickling_with_text_and_notes(cls: type[Exception]) -> None:
    error = cls("expected 3, got 4")
    error.add_note("on rank 1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == "expected 3, got 4"
    assert copy.__notes__ == ["on rank 1"]


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ShapeError, ValueError),
        (errors.DtypeError, TypeError),
        (errors.ToleranceError, ValueError),
        (errors.CodecError, ValueError),
        (errors.FileFormatError, ValueError),
        (errors.StorageError, OSError),
        (errors.StoppedError, RuntimeError),
        (errors.LayoutError, ValueError),
        (errors.CommunicatorError, RuntimeError),
        (errors.PeerError, RuntimeError),
        (errors.ConfigurationError, ValueError),
        (errors.ModelError, ValueError),
        (errors.ResourceError, RuntimeError),
        (errors.DeviceError, RuntimeError),
        (errors.MissingDependencyError, ImportError),
        (errors.UnsupportedOperationError, TypeError),
    ],
)
def test_is_caught_as_the_builtin(cls: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise cls("text")


def test_missing_dependency_says_what_to_install() -> None:
    error = errors.MissingDependencyError.needs("reading NetCDF", "netCDF4", "io")
    assert str(error) == "reading NetCDF needs netCDF4: pip install 'hpcblaz[io]'"
    assert pickle.loads(pickle.dumps(error)).name == "netCDF4"
