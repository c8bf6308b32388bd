"""What witnesses say of a log, measured by a policy: for `verify` and `verify-receipt`."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from services.audit.checkpoint import SignedCheckpoint
from services.audit.keys.archive import rfc3339
from services.audit.verification.report import Report
from services.audit.witnesses.policy import Policy, PolicyError, parse_policy
from services.audit.witnesses.vouching import Vouched, best_vouched
from services.cli.audit.options import usage

PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        help="A C2SP tlog-policy file: also demand its quorum of witnesses.",
    ),
]


class Vouching:
    """What a policy makes of the checkpoints of one log.

    Args:
        path: the policy's file.
        checkpoints: those that were found, each part of the log.
    """

    def __init__(self, path: Path, checkpoints: Iterable[SignedCheckpoint | None]) -> None:
        """See the class."""
        policy = load_policy(path)
        signed = [one for one in checkpoints if one is not None]
        found = best_vouched(signed, policy, time.time())
        self._policy = policy
        self.problems = [problem for one in found for problem in one.problems]
        self._unknown = any(one.quorum and not one.by_log for one in found)
        self.best: Vouched | None = next((one for one in found if one.accepted), None)
        self.newest: dict[str, tuple[int, int]] = {}
        for one in reversed(found):
            for vouch in one.vouches:
                self.newest[vouch.witness] = (one.size, vouch.time)

    @property
    def good(self) -> bool:
        """Whether a quorum vouches for a checkpoint, and no line of a known key is wrong."""
        return self.best is not None and not self.problems

    def document(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "quorum": self.best is not None,
            "size": None if self.best is None else self.best.size,
            "checkpoint": None if self.best is None else self.best.document(),
            "witnesses": {
                name: {
                    "size": self.newest[name][0] if name in self.newest else None,
                    "time": rfc3339(self.newest[name][1]) if name in self.newest else None,
                }
                for name in self._policy.witnesses
            },
            "problems": self.problems,
        }

    def print(self, out: Console, size: int) -> None:
        """Say for people which witnesses vouched for what, and when."""
        for name in self._policy.witnesses:
            known = self.newest.get(name)
            said = "nothing" if known is None else f"size {known[0]} at {rfc3339(known[1])}"
            out.print(f"witness      {name}: {said}")
        for problem in self.problems:
            out.print(f"witnesses: {problem}")
        if self.best is None:
            why = "no checkpoint was cosigned by enough witnesses"
            if self._unknown:
                why = "a quorum cosigned, but no log of the policy signed what it cosigned"
            out.print(f"quorum       NOT MET: {why}")
        else:
            rest = size - self.best.size
            behind = f"; {rest} newer records have the log's own word alone" if rest > 0 else ""
            out.print(f"quorum       met for the first {self.best.size} records{behind}")


def vouching_of(path: Path, report: Report, history: Iterable[SignedCheckpoint]) -> Vouching:
    """Return what a policy makes of a log that was verified.

    Checkpoints count only if the log was found to contain them.
    """
    good = report.passed("integrity") and report.passed("signatures")
    return Vouching(path, [report.signed, *history] if good else [])


def load_policy(path: Path) -> Policy:
    """Return the policy of a file, or end with a sentence."""
    try:
        return parse_policy(path.read_bytes())
    except OSError as error:
        usage(f"--policy: {path}: {error.strerror}")
    except PolicyError as error:
        usage(f"--policy: {path}: {error}")
