"""The messages of `envoy.service.ratelimit.v3`, made from their descriptors.

They live in a pool of their own: a process that has Envoy's whole API loaded is not disturbed.
"""

from pathlib import Path
from typing import Any, Final

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)

import weaver.ratelimit

SERVICE: Final = "envoy.service.ratelimit.v3.RateLimitService"
OK: Final = 1
OVER_LIMIT: Final = 2
UNITS: Final = {"second": 1, "minute": 2, "hour": 3, "day": 4, "month": 5}


def _load() -> tuple[Any, Any]:
    path = Path(next(iter(weaver.ratelimit.__path__))) / "envoy_rls.binpb"
    pool = descriptor_pool.DescriptorPool()
    for known in (duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    request, response = (
        message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"envoy.service.ratelimit.v3.{name}")
        )
        for name in ("RateLimitRequest", "RateLimitResponse")
    )
    return request, response


RateLimitRequest, RateLimitResponse = _load()
