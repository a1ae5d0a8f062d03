"""Python's operators and NumPy's protocols of compressed arrays."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.fields import arithmetic, protocols

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


class Operators:
    """What operators and NumPy's functions do with a compressed array, which inherits it."""

    __hash__ = object.__hash__

    # NumPy's protocols

    def __array_ufunc__(self: Any, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Do what a ufunc of NumPy does; see :func:`hpcblaz.apply`."""
        return protocols.ufunc(ufunc, method, inputs, options)

    def __array_function__(
        self: Any, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Do what a function of NumPy does, if it is one that compressed arrays have."""
        return protocols.function(function, arguments, options)

    def __dlpack__(self: Any, **options: Any) -> Any:
        """Decompress, and hand the values to another library."""
        return self.decompress().__dlpack__(**options)

    def __dlpack_device__(self: Any) -> tuple[int, int]:
        """Say where the decompressed values will be, as DLPack numbers devices."""
        kind, _, number = self.device.partition(":")
        return (1, 0) if kind == "cpu" else (2, int(number or 0))

    # Arithmetic

    def __neg__(self: Any) -> "CompressedArray":
        return arithmetic.scale(self, -1.0, arithmetic.result_dtype(self, -1.0))

    def __pos__(self: Any) -> Any:
        return self

    def __abs__(self: Any) -> Any:
        return np.absolute(self)

    def __add__(self: Any, other: Any) -> Any:
        return np.add(self, other) if _is_plain(other) else arithmetic.add(self, other, 1.0, 1.0)

    __radd__ = __add__

    def __sub__(self: Any, other: Any) -> Any:
        return np.subtract(self, other) if _is_plain(other) else arithmetic.add(self, other, 1.0, -1.0)

    def __rsub__(self: Any, other: Any) -> Any:
        return np.subtract(other, self) if _is_plain(other) else arithmetic.add(self, other, -1.0, 1.0)

    def __mul__(self: Any, other: Any) -> Any:
        return np.multiply(self, other) if _is_field(other) else arithmetic.multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self: Any, other: Any) -> Any:
        return np.divide(self, other) if _is_field(other) else arithmetic.divide(self, other)

    def __rtruediv__(self: Any, other: Any) -> Any:
        return np.divide(other, self)

    def __pow__(self: Any, other: Any) -> Any:
        return np.square(self) if np.ndim(other) == 0 and other == 2 else np.power(self, other)

    def __lt__(self: Any, other: Any) -> Any:
        return np.less(self, other)

    def __le__(self: Any, other: Any) -> Any:
        return np.less_equal(self, other)

    def __gt__(self: Any, other: Any) -> Any:
        return np.greater(self, other)

    def __ge__(self: Any, other: Any) -> Any:
        return np.greater_equal(self, other)

    def __eq__(self: Any, other: Any) -> Any:
        return np.equal(self, other)

    def __ne__(self: Any, other: Any) -> Any:
        return np.not_equal(self, other)


def _is_plain(other: Any) -> bool:
    """Say whether an operand is an array that is not compressed."""
    return not arithmetic.is_array(other) and hasattr(other, "shape") and np.ndim(other) > 0


def _is_field(other: Any) -> bool:
    return arithmetic.is_array(other) or _is_plain(other)
