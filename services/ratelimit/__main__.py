"""Run the limiter: `python -m services.ratelimit`."""

from services.common.run import serve
from services.ratelimit.settings import RatelimitSettings
from services.ratelimit.wiring import build


def main() -> None:
    """Serve until told to stop."""
    serve(RatelimitSettings, build)


if __name__ == "__main__":
    main()
