"""A whole service in miniature, for a process of its own: `python -m tests.fakes.service`."""

import asyncio
from contextlib import AsyncExitStack

import structlog
from pydantic import Field

from services.common.component import Component
from services.common.run import serve
from services.common.settings import CommaSeparated, CommonSettings
from tests.fakes.limits import ScriptedLimits, component

ANSWER_S = 0.3


class FakeSettings(CommonSettings):
    """Where the service listens."""

    listen: str = Field(default="127.0.0.1:0", validation_alias="WEAVER_RATELIMIT_LISTEN")
    metrics_listen: str = Field(
        default="127.0.0.1:0", validation_alias="WEAVER_RATELIMIT_METRICS_LISTEN"
    )
    health_listen: str = Field(default="", validation_alias="WEAVER_RATELIMIT_HEALTH_LISTEN")
    allowed_clients: CommaSeparated = Field(
        default=("gateway",), validation_alias="WEAVER_RATELIMIT_ALLOWED_CLIENTS"
    )


async def build(settings: FakeSettings, stack: AsyncExitStack) -> Component:
    limits = ScriptedLimits()
    answer = limits.answer

    async def slow(request: object, context: object) -> object:
        await asyncio.sleep(ANSWER_S)
        return await answer(request, context)

    limits.answer = slow
    log = structlog.get_logger()
    stack.callback(log.info, "cleaned up")
    return component(limits)


def main() -> None:
    serve(FakeSettings, build)


if __name__ == "__main__":
    main()
