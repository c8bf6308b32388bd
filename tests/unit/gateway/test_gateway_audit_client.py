"""Events as records on the wire."""

import pytest

from services.common.errors import InvalidArgument
from services.common.local import LocalChannel
from services.gateway.audit_client import AuditClient
from services.gateway.events import Event, EventType, Usage


@pytest.mark.parametrize(
    "changes",
    [{"cost_micros": 2**70}, {"usage": Usage(2**70)}, {"time": 1e300}, {"attempts": -(2**40)}],
)
async def test_an_event_that_the_wire_cannot_carry_is_an_invalid_one(
    changes: dict[str, object],
) -> None:
    client = AuditClient(LocalChannel("gateway"), append_timeout_s=1.0, read_timeout_s=1.0)
    event = Event(EventType.OUTCOME, **{"time": 0.0, **changes})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        await client.append([event])
