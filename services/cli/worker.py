"""One more gateway beside that of `weaver up`: `python -m services.cli.worker`.

It has a limiter and a model service of its own in its process, takes Envoy's calls on a Unix
socket, and records at the one audit service, as a gateway on another machine would. Its state is in
the store that all limiters share.
"""

import sys
from contextlib import AsyncExitStack

import uvloop

from services.cli.local_services import answer
from services.common import logs
from services.common.run import settle_in, until_drained
from services.common.settings import SettingsError, load_or_exit
from services.gateway.settings import GatewaySettings


def main() -> None:
    """Run until told to stop.

    Raises:
        SystemExit: 2 with a sentence when it cannot start.
    """
    settings = load_or_exit(GatewaySettings)
    try:
        uvloop.run(_run(settings))
    except SettingsError as error:
        sys.stderr.write(f"weaver: cannot start: {error}\n")
        raise SystemExit(2) from None


async def _run(settings: GatewaySettings) -> None:
    logs.configure(settings, "weaver")
    async with AsyncExitStack() as stack:
        answering = await answer(settings, stack, lambda _: None, neighbours=())
        settle_in()
        await until_drained(answering.handles[-1:], settings, answering.reload)


if __name__ == "__main__":
    main()
