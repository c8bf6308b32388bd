"""Run the service: `python -m services.model`."""

from services.common.run import serve
from services.model.settings import ModelSettings
from services.model.wiring import build


def main() -> None:
    """Serve until SIGTERM."""
    serve(ModelSettings, build)


if __name__ == "__main__":
    main()
