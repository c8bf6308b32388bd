"""Runs the audit service: `python -m services.audit`."""

import sys

from services.audit.settings import AuditSettings
from services.audit.wiring import build
from services.common.run import serve

_SWITCH_S = 0.0005


def main() -> None:
    """Serve until told to stop."""
    # The threads that write wait for the interpreter after each system call: a tenth of the
    # default lets them keep up with a busy event loop.
    sys.setswitchinterval(_SWITCH_S)
    serve(AuditSettings, build)


if __name__ == "__main__":
    main()
