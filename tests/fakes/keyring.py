"""A machine's key files, a clock that is turned by hand, and an audit service over both."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from services.audit.keys import files as keyfiles
from services.audit.keys import signers as keys
from services.audit.keys.archive import DAY_S
from services.audit.keys.provenance import Provenance
from services.audit.wiring import build
from tests.fakes.auditlog import RunningLog, quick_keys, settings_in

DAY_0 = 1_790_000_000.0


class MovedClock:
    """A clock whose days are turned by hand."""

    def __init__(self) -> None:
        self.now = DAY_0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def day(self, days: float, seconds: float = 0) -> None:
        self.now = DAY_0 + days * DAY_S + seconds


class Keyring:
    """The key files of one machine."""

    def __init__(self, directory: Path) -> None:
        self.rsa = directory / keyfiles.RSA_FILE
        self.ed25519 = directory / keyfiles.ED25519_FILE
        rsa, ed25519 = quick_keys()
        keyfiles.write(self.rsa, rsa.encode(), 0o600, replace=True)
        keyfiles.write(self.ed25519, ed25519.encode(), 0o600, replace=True)

    def settings(self) -> dict[str, object]:
        return {
            "signing_key": self.rsa.read_text(),
            "signing_key_file": self.rsa,
            "ed25519_key": None,
            "ed25519_key_file": self.ed25519,
            "key_poll_seconds": 0.05,
        }

    def rotate_rsa(self, reason: str = "quarterly") -> bytes:
        """Put a new RSA key in place, and return the old one."""
        old = self.rsa.read_bytes()
        stated = Provenance("ann@laptop", "laptop", "2026-11-23T10:00:00Z", reason)
        keyfiles.write_private(self.rsa, keys.generate_rsa(2048), provenance=stated, replace=True)
        return old

    def rotate_ed25519(self) -> None:
        keyfiles.write_private(self.ed25519, keys.generate_ed25519(), replace=True)


@asynccontextmanager
async def running(state: Path, clock: MovedClock, **overrides: object) -> AsyncIterator[RunningLog]:
    """Run an audit service by a clock, and end it gracefully."""
    clock.now += 0.01  # Each boot has an epoch of its own.
    settings = settings_in(state, **overrides)
    async with AsyncExitStack() as stack:
        component = await build(settings, stack, clock=clock)
        log = RunningLog(component, None, settings.log_path)
        yield log._replace(stub=log.stub_of("gateway"))
