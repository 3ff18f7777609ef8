"""Names of kernels are identifiers that tell numbers apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warploom.codegen.names import identifier

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS)
def test_numbers_become_parts_of_identifiers(number: float) -> None:
    assert f"scale_{identifier(number.hex())}".isidentifier()
    assert f"eps_{identifier(repr(number))}".isidentifier()


@given(NUMBERS, NUMBERS)
def test_different_numbers_have_different_names(one: float, other: float) -> None:
    assert (identifier(one.hex()) == identifier(other.hex())) == (one.hex() == other.hex())
