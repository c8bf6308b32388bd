"""Run the gateway: `python -m services.gateway`."""

from services.common.run import serve
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import build, listeners


def main() -> None:
    """Serve until told to stop."""
    serve(GatewaySettings, build, listeners=listeners)


if __name__ == "__main__":
    main()
