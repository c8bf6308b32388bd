"""`weaver doctor`: looks at a running deployment, changes nothing, and says what to do."""

from services.cli.doctor.command import app

__all__ = ["app"]
