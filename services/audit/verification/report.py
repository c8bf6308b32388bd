"""What a verification finds, apart for integrity, completeness and signatures."""

from dataclasses import dataclass, field
from typing import Any, Literal

from services.audit.checkpoint import SignedCheckpoint

Verdict = Literal["integrity", "completeness", "signatures"]
Damage = Literal[
    "changed",
    "duplicated",
    "forked",
    "inserted",
    "missing",
    "reordered",
    "rolled back",
    "truncated",
    "unfounded",
    "unreadable",
    "wrongly signed",
]
MAX_FINDINGS = 1_000


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        verdict: what it speaks against.
        kind: the kind of damage.
        message: one sentence for people.
        index: the first record concerned, where that is known.
        path: the file concerned, relative to the log's directory, where it is one.
    """

    verdict: Verdict
    kind: Damage
    message: str
    index: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class SignatureCheck:
    """One signature line of the newest checkpoint."""

    algorithm: str
    fingerprint: str
    state: Literal["good", "bad", "not checked"]


@dataclass
class Report:
    """The result of a verification.

    Attributes:
        origin: the log's name.
        size: the records under the newest checkpoint.
        good_records: how many of them are as they were signed.
        checkpoints: how many checkpoints were verified, the newest and older ones.
        beyond: records that lie behind the checkpoint, not signed yet.
        since: the size of the older checkpoint that vouches for what was not read again; 0 when
            the whole log was read.
        pruned: records whose hashes are kept and whose text is not.
        signatures: the lines of the newest checkpoint.
        interrupted: intents without an outcome, as (index, record id), the first ten thousand.
        interrupted_count: how many there are.
        findings: what is wrong, at most a thousand.
        signed: the newest checkpoint.
    """

    origin: str = ""
    size: int = 0
    good_records: int = 0
    checkpoints: int = 0
    beyond: int = 0
    since: int = 0
    pruned: int = 0
    signatures: list[SignatureCheck] = field(default_factory=list)
    interrupted: list[tuple[int, str]] = field(default_factory=list)
    interrupted_count: int = 0
    findings: list[Finding] = field(default_factory=list)
    signed: SignedCheckpoint | None = None

    def add(
        self,
        verdict: Verdict,
        kind: Damage,
        message: str,
        *,
        index: int | None = None,
        path: str | None = None,
    ) -> None:
        """Take note of something wrong."""
        if len(self.findings) < MAX_FINDINGS:
            shown = None if path is None else printable(path)
            self.findings.append(Finding(verdict, kind, printable(message), index, shown))

    def passed(self, verdict: Verdict) -> bool:
        """Say whether nothing speaks against one verdict."""
        return all(finding.verdict != verdict for finding in self.findings)

    @property
    def good(self) -> bool:
        """Whether nothing at all is wrong."""
        return not self.findings

    @property
    def first_bad_index(self) -> int | None:
        """The first record that is known to be concerned."""
        return min((f.index for f in self.findings if f.index is not None), default=None)

    def document(self) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "origin": self.origin,
            "good": self.good,
            "integrity": self.passed("integrity"),
            "completeness": self.passed("completeness"),
            "signatures": self.passed("signatures"),
            "records": self.size,
            "good_records": self.good_records,
            "checkpoints": self.checkpoints,
            "beyond_checkpoint": self.beyond,
            "since": self.since,
            "pruned": self.pruned,
            "first_bad_index": self.first_bad_index,
            "signature_lines": [vars(line) for line in self.signatures],
            "interrupted_count": self.interrupted_count,
            "interrupted": [{"index": index, "id": name} for index, name in self.interrupted],
            "findings": [vars(finding) for finding in self.findings],
        }


def printable(text: str) -> str:
    """Return a text with everything escaped that a terminal would obey or could not show.

    Names of files and of instances may be an attacker's.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
