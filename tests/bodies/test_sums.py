"""Widths of groups and their codes."""

import pytest

from hpcblaz.bodies.sums import code_of, width_of


@pytest.mark.parametrize("most", range(1, 33))
def test_a_code_stands_for_at_least_the_bits_of_its_group(most: int) -> None:
    for width in range(most + 1):
        code = code_of(width, most)
        assert 0 <= code <= 15
        assert width <= width_of(code, most) <= most
        assert width_of(code, most) == width or most - width > 14  # nothing is wasted unless widths differ a lot
    assert width_of(code_of(0, most), most) == 0
