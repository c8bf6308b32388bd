"""The error tree."""

import pytest

from services.common.errors import FieldViolation, InvalidArgument, WeaverError
from weaver.common.v1 import error_reason_pb2


def test_violations_compare_by_content() -> None:
    one, same, other = FieldViolation("a", "b"), FieldViolation("a", "b"), FieldViolation("a", "c")
    assert one == same
    assert one != other
    assert one != "a"
    assert len({one, same, other}) == 2
    assert repr(one) == "FieldViolation('a', 'b')"


def test_one_wrong_field_makes_a_sentence() -> None:
    error = InvalidArgument.of_field("model", "is empty")
    assert error.message == str(error) == "model: is empty"
    assert error.violations == (FieldViolation("model", "is empty"),)


@pytest.mark.parametrize("kind", WeaverError.__subclasses__())
def test_every_default_reason_is_in_the_contract(kind: type[WeaverError]) -> None:
    if kind.__module__ == WeaverError.__module__:
        assert f"ERROR_REASON_{kind.default_reason}" in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum wrapper
