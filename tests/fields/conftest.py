"""The tests of fields run on the CPU, and unchanged on a GPU: ``python -m pytest -m gpu`` where there is one.

On the GPU arrays are compressed on the card and all is computed there; what is an array comes back to the host, where
the tests compare it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from hpcblaz.backend import gpu
from hpcblaz.backend.dispatch import choose_device
from hpcblaz.errors import HpcblazError
from hpcblaz.fields import blockwise, compress
from hpcblaz.fields.array import CompressedArray


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Add the runs on a GPU where they were asked for, or where there may be one."""
    wanted = "gpu" in str(metafunc.config.option.markexpr) or os.path.exists("/proc/driver/nvidia/version")
    if wanted and "device" in metafunc.fixturenames:
        on_gpu = pytest.param("gpu", marks=pytest.mark.gpu)
        metafunc.parametrize("device", ["cpu", on_gpu], indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where arrays are compressed, unless a test says where."""
    where = getattr(request, "param", "cpu")
    if where == "cpu":
        yield where
        return
    try:
        gpu.array_module()
    except HpcblazError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress, "choose_device", lambda device, x=None: choose_device(device or "gpu", x))
        _bring_to_host(patch, CompressedArray, "_to_dtype")
        _bring_to_host(patch, blockwise, "_block_delta")
        _bring_to_host(patch, blockwise, "_blocks")
        yield where


def _bring_to_host(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        return tuple(map(gpu.asnumpy, result)) if isinstance(result, tuple) else gpu.asnumpy(result)

    patch.setattr(owner, name, wrapped)
