"""The package onnx, which is loaded where files are read or written."""

import importlib
from typing import Any

from hpcblaz.errors import MissingDependencyError

__all__ = ["load_onnx"]


def load_onnx() -> Any:
    """Return the package.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        for part in ("onnx.helper", "onnx.numpy_helper", "onnx.shape_inference"):
            importlib.import_module(part)
        return importlib.import_module("onnx")
    except ImportError as error:
        raise MissingDependencyError.needs("reading and writing networks in ONNX files", "onnx", "nn") from error
