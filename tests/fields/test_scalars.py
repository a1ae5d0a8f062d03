from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.fields.certificates import Interval

FINITE = st.floats(allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-1e100, 1e100)


@given(value=MODERATE, error=st.floats(0, 1e100))
def test_the_interval_holds_every_number_within_the_error(value: float, error: float) -> None:
    low, high = hb.CertifiedFloat(value, error).interval
    assert Fraction(low) <= Fraction(value) - Fraction(error)
    assert Fraction(high) >= Fraction(value) + Fraction(error)
    assert low >= math.nextafter(value - error, -math.inf)
    assert high <= math.nextafter(value + error, math.inf)


def test_intervals_without_a_bound() -> None:
    assert hb.CertifiedFloat(math.nan, math.inf).interval == (-math.inf, math.inf)
    assert hb.CertifiedFloat(1.0, math.nan).error == math.inf
    assert hb.CertifiedFloat(2.0, 0.5).interval == (1.5, 2.5)


def test_is_a_float_that_can_be_copied() -> None:
    m = hb.CertifiedFloat(2.5, 0.25)
    assert (repr(m), m + 1, f"{m:.1f}", float(m)) == ("2.5", 3.5, "2.5", 2.5)
    for twin in (copy.copy(m), copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert (twin, twin.error) == (2.5, 0.25)
        assert isinstance(twin, hb.CertifiedFloat)


@given(a=st.tuples(MODERATE, MODERATE).map(sorted), b=st.tuples(MODERATE, MODERATE).map(sorted), data=st.data())
def test_interval_arithmetic_is_rounded_outward(a: list[float], b: list[float], data: st.DataObject) -> None:
    x, y = data.draw(st.floats(*a)), data.draw(st.floats(*b))
    left, right = Interval(*a), Interval(*b)

    def holds(interval: Interval, truth: Fraction) -> bool:
        low = interval.low == -math.inf or Fraction(interval.low) <= truth
        return low and (interval.high == math.inf or truth <= Fraction(interval.high))

    assert holds(left + right, Fraction(x) + Fraction(y))
    assert holds(left + y, Fraction(x) + Fraction(y))
    assert holds(left * right, Fraction(x) * Fraction(y))
    assert holds(left.square(), Fraction(x) ** 2)
    if y:
        assert holds(left / right, Fraction(x) / Fraction(y))


@given(
    ends=st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted),
    power=st.sampled_from([0, 0.5, 1, 2, 3, 0.3]),
    data=st.data(),
)
def test_interval_powers(ends: list[float], power: float, data: st.DataObject) -> None:
    x = data.draw(st.floats(*ends))
    interval = Interval(*ends).power(power)
    if x >= 0 or power == int(power):
        truth = float(x) ** power
        assert interval.low <= truth <= interval.high
    else:
        assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_intersection_stays_an_interval() -> None:
    assert Interval(-3.0, 0.5).intersect(-1, 1) == Interval(-1, 0.5)
    assert Interval(2.0, 3.0).intersect(-1, 1) == Interval(1, 1)
    assert Interval.around(1.0, 0.5).error_of(1.0) >= 0.5
