"""The limits that a caller brings along, from the wire; their form is checked here."""

import math

from services.common.errors import InvalidArgument
from services.ratelimit.own_limits import OwnLimits
from services.ratelimit.rule import MAX_AMOUNT, MAX_COST
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb

_MAX_RATE = 1_000_000
_MOST = {
    "burst": _MAX_RATE,
    "tokens_per_minute": MAX_AMOUNT,
    "tokens_per_day": MAX_AMOUNT,
    "cost_micros_per_day": MAX_COST,
    "cost_micros_per_month": MAX_COST,
    "concurrency": _MAX_RATE,
}


def own_limits(message: pb.OwnLimits, path: str) -> OwnLimits:
    """Return what a message says.

    Raises:
        InvalidArgument: a value that no limit can have; the field is named below `path`.
    """
    rate = message.requests_per_second
    if not (math.isfinite(rate) and 0 <= rate <= _MAX_RATE):
        field, description = "requests_per_second", f"must be from 0 to {_MAX_RATE}."
        raise InvalidArgument.of_field(f"{path}own_limits.{field}", description)
    amounts = {name: getattr(message, name) for name in _MOST}
    for name, amount in amounts.items():
        if not 0 <= amount <= _MOST[name]:
            description = f"must be from 0 to {_MOST[name]}."
            raise InvalidArgument.of_field(f"{path}own_limits.{name}", description)
    return OwnLimits(rate, **amounts)
