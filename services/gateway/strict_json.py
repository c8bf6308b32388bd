"""JSON that can be read in one way only: no name twice, no number that is none."""

import json
import math
from typing import Any, NoReturn


class NotStrictError(ValueError):
    """It is not such an object; the message continues a sentence about it."""


def read_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object, as RFC 8259 and RFC 7493 have it.

    Raises:
        NotStrictError: it is none.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except NotStrictError:
        raise
    except (ValueError, RecursionError):
        msg = "is malformed"
        raise NotStrictError(msg) from None
    if not isinstance(value, dict):
        msg = "is not a JSON object"
        raise NotStrictError(msg)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "has a name that stands twice"
        raise NotStrictError(msg)
    return members


def _no_number(_: str) -> NoReturn:
    msg = "has a number that is none"
    raise NotStrictError(msg)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _no_number(text)
    return number
