"""Check what lies in the tree: no secret, no registry address, no file that has grown too long.

It reads what git tracks or would track. A line of a test that must look like a secret ends in
`pragma: allowlist secret`.
"""

import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from detect_secrets.core import scan
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parent.parent
LONGEST, MEDIAN, NINE_IN_TEN, NINTH = 400, 120, 300, 0.9

# Each knows the form of one vendor's secret; the ones that guess from entropy are left out.
PLUGINS = (
    *("AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "DiscordBotTokenDetector"),
    *("GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector", "MailchimpDetector"),
    *("NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector"),
    *("SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector"),
    *("TelegramBotTokenDetector", "TwilioKeyDetector"),
)
# What the plugins do not know.
UNKNOWN_TO_THEM = {
    "Anthropic key": re.compile(r"sk-ant-[a-z0-9]+-[A-Za-z0-9_-]{20,}"),
    "Weaver key": re.compile(r"\bwv_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}\b"),
}
REGISTRY = re.compile(
    r"https?://[^\s\"'`)]*(?:pypi|pythonhosted|/simple\b)|index-url[= ]+http", re.IGNORECASE
)
ALLOWED = "pragma: allowlist secret"


def tracked() -> list[Path]:
    """Return every text file that git tracks or would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    names = sorted({name for name in listed.decode().split("\0") if name})
    paths = [ROOT / name for name in names]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8000]]


def secrets(files: list[Path]) -> Iterator[str]:
    """Yield each place that looks like a secret."""
    with transient_settings({"plugins_used": [{"name": name} for name in PLUGINS]}):
        for path in files:
            for secret in scan.scan_file(str(path)):
                yield f"{path.relative_to(ROOT)}:{secret.line_number}: {secret.type}"
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                for kind, form in UNKNOWN_TO_THEM.items():
                    if form.search(line) and ALLOWED not in line:
                        yield f"{path.relative_to(ROOT)}:{number}: {kind}"


def registries(files: list[Path]) -> Iterator[str]:
    """Yield each line that names a package index; lock files hold no address at all."""
    for path in files:
        lock = path.parent == ROOT / "requirements"
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if REGISTRY.search(line) or (lock and "://" in line):
                yield f"{path.relative_to(ROOT)}:{number}: address of a package index"


def lengths(files: list[Path]) -> Iterator[str]:
    """Yield what is too long in `services/`; the median is of the lines that are not blank."""
    sources = [path for path in files if path.is_relative_to(ROOT / "services")]
    counts = {path: len(path.read_text().splitlines()) for path in sources if path.suffix == ".py"}
    for path, count in counts.items():
        if count > LONGEST:
            yield f"{path.relative_to(ROOT)}: {count} lines; at most {LONGEST}"
    ordered = sorted(counts.values())
    texts = [path.read_text().splitlines() for path in counts]
    if (median := statistics.median(sum(map(bool, lines)) for lines in texts)) > MEDIAN:
        yield f"services/: the median file has {median:.0f} lines of text; at most {MEDIAN}"
    if (ninth := ordered[int(len(ordered) * NINTH)]) > NINE_IN_TEN:
        yield f"services/: one file in ten has {ninth} lines or more; at most {NINE_IN_TEN}"


def main() -> None:
    """Print what is wrong, and fail if anything is."""
    files = tracked()
    checks = {"secrets": secrets, "registries": registries, "lengths": lengths}
    wanted = sys.argv[1:] or list(checks)
    problems = [problem for name in wanted for problem in checks[name](files)]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
