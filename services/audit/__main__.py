"""Runs the audit service: `python -m services.audit`."""

from services.audit.settings import AuditSettings
from services.audit.wiring import build
from services.common.run import serve


def main() -> None:
    """Serve until told to stop."""
    serve(AuditSettings, build)


if __name__ == "__main__":
    main()
