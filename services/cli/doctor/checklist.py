"""`weaver doctor --production`: an answer to each line of the guide's compliance checklist."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from services.audit.keys.archive import ROTATE_DAYS, rfc3339
from services.cli.doctor import log, signing, upkeep
from services.cli.doctor.finding import Finding, State
from services.cli.doctor.prometheus import loaded_alerts
from services.cli.doctor.surroundings import Surroundings
from services.cli.keys.checking import CheckedKey

BITS = 4096
NEEDED_ALERTS = ("AuditLogDamaged", "AuditLogNotVerified")
_SECRETS = ("WEAVER_TELEMETRY_SIGNING_KEY", "WEAVER_AUDIT_ED25519_KEY", "WEAVER_AUDIT_STORE_KEY")
_PRIVATE = "PRIVATE KEY"
_NOT_AUDIT = ("gateway", "ratelimit", "model", "envoy")
_PAGES = Path(__file__).resolve().parents[3] / "docs" / "operations"

ITEMS = (
    "RSA keys generated with 4096-bit strength",
    "Private keys stored in secure vault (not in code or env files)",
    "Kubernetes secrets configured with proper RBAC",
    "Key rotation schedule documented",
    "Backup procedure tested",
    "Verification script tested successfully",
    "Monitoring alerts configured for signature failures",
    "Documentation updated with key management procedures",
)
"""The guide's checklist, word for word."""


def examine(around: Surroundings, prometheus: str) -> Iterator[Finding]:
    """Answer each line; what cannot be seen from here says how to see it."""
    keys = signing.keys_here(around)
    rest = (
        _strength(around, keys),
        _vault(keys),
        _access(keys),
        _schedule(around, keys),
        _as(upkeep.drill(around), "weaver backup drill brings everything back"),
        _as(log.verification(around), "weaver audit verify"),
        _alerts(prometheus),
        _documented(),
    )
    for item, found in zip(ITEMS, rest, strict=True):
        yield Finding(item, found.state, found.what, found.act, found.page)


def _strength(around: Surroundings, keys: list[CheckedKey]) -> Finding:
    bits = [key.bits for key in keys if key.bits is not None]
    if not bits:
        archive = signing.archive_here(around)
        signers = [] if archive is None else [t for t in archive.active if t.algorithm == "RSA"]
        bits = [getattr(term.key.public_key, "key_size", 0) for term in signers]
    if not bits:
        act = "run this where the audit service runs"
        return Finding("", "unknown", "no RSA key and no archive of keys is here", act, "keys.md")
    good = min(bits) >= BITS
    what = f"the RSA key has {min(bits)} bits"
    return Finding(
        "", "good" if good else "bad", what, "" if good else "weaver keys rotate", "keys.md"
    )


def _vault(keys: list[CheckedKey]) -> Finding:
    inline = [name for name in _SECRETS if os.environ.get(name)]
    if inline:
        act = f"put it into a mounted secret or a vault's file, and set {inline[0]}_FILE"
        what = f"{', '.join(inline)} stands in the environment"
        return Finding("", "bad", what, act, "keys.md")
    spilled = [str(path) for path in sorted(Path.cwd().glob(".env*")) if _holds_key(path)]
    if spilled:
        what = f"{', '.join(spilled)} holds a private key"
        return Finding("", "bad", what, "replace that key: weaver keys rotate", "keys.md")
    if not keys:
        act = "run this where the audit service runs"
        return Finding("", "unknown", "no private key is on this machine", act, "keys.md")
    wrong = [problem for key in keys for problem in key.problems if "read by" in problem]
    in_code = [key.source for key in keys if _in_repository(Path(key.source))]
    if wrong or in_code:
        what = "; ".join([*wrong, *(f"{path} lies in a tree of code" for path in in_code)])
        return Finding("", "bad", what, "move it, and replace the key", "keys.md")
    what = "each is a file for its owner alone, in no environment and in no tree of code"
    return Finding("", "good", what)


def _access(keys: list[CheckedKey]) -> Finding:
    kubectl = shutil.which("kubectl")
    if kubectl is None or not (
        os.environ.get("KUBERNETES_SERVICE_HOST")
        or os.environ.get("KUBECONFIG")
        or (Path.home() / ".kube" / "config").exists()
    ):
        if keys and not any(key.problems for key in keys):
            what = "not in Kubernetes: the keys are files that no other user can read"
            return Finding("", "good", what)
        account = "system:serviceaccount:weaver-ai:gateway"
        act = f"kubectl auth can-i get secrets -n weaver-audit --as {account}"
        return Finding("", "unknown", "there is no cluster to ask from here", act, "keys.md")
    for service in _NOT_AUDIT:
        account = f"system:serviceaccount:weaver-ai:{service}"
        command = [kubectl, "auth", "can-i", "get", "secrets", "-n", "weaver-audit"]
        done = subprocess.run(  # noqa: S603 - the operator's own kubectl
            [*command, "--as", account, "--request-timeout=5s"],
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout.strip()
        if said == "yes":
            what = f"{account} may read the secrets of weaver-audit"
            return Finding(
                "", "bad", what, "kubectl apply -k deploy/kubernetes/overlays/production"
            )
        if said != "no":
            what = f"the cluster does not say: {done.stderr.strip()[:200]}"
            return Finding("", "unknown", what, " ".join(["kubectl", *command[1:]]), "keys.md")
    return Finding("", "good", "no other service's account may read the secrets of weaver-audit")


def _schedule(around: Surroundings, keys: list[CheckedKey]) -> Finding:
    ages = [key.age_days for key in keys if key.age_days is not None]
    if not ages:
        scrape = around.scrape("audit")
        samples = [] if scrape is None else scrape.samples.get("audit_key_age_days", [])
        ages = [sample.value for sample in samples]
    if not ages:
        return Finding(
            "", "unknown", "nobody here knows the keys' age", "weaver keys list", "keys.md"
        )
    due = rfc3339(time.time() + (ROTATE_DAYS - max(ages)) * 86_400)[:10]
    late = max(ages) > ROTATE_DAYS
    old = f"the oldest key is {int(max(ages))} days old, due {due}"
    what = f"every {ROTATE_DAYS} days (keys.md); {old}"
    return Finding(
        "", "bad" if late else "good", what, "weaver keys rotate" if late else "", "keys.md"
    )


def _alerts(prometheus: str) -> Finding:
    if not prometheus:
        act = "name the Prometheus: --prometheus http://prometheus:9090"
        return Finding(
            "", "unknown", "which alerts are loaded cannot be seen", act, "monitoring.md"
        )
    try:
        loaded = loaded_alerts(prometheus)
    except OSError as error:
        return Finding("", "unknown", f"{prometheus}: {error}", "is it up?", "monitoring.md")
    missing = [name for name in NEEDED_ALERTS if name not in loaded]
    if missing:
        what = f"{prometheus} has no alert {', '.join(missing)}"
        return Finding("", "bad", what, "load deploy/prometheus/*.rules.yaml", "monitoring.md")
    return Finding(
        "", "good", f"{', '.join(NEEDED_ALERTS)} are loaded, with {len(loaded)} alerts in all"
    )


def _documented() -> Finding:
    pages = ("keys.md", "backup.md", "verify.md", "rotate-secrets.md")
    missing = [name for name in pages if not (_PAGES / name).is_file()]
    if missing and _PAGES.is_dir():
        return Finding("", "bad", f"docs/operations has no {', '.join(missing)}", "write it")
    if missing:
        what = "the documentation of this version is not in this image"
        return Finding("", "unknown", what, "read docs/operations/keys.md of this version")
    return Finding("", "good", f"docs/operations: {', '.join(pages)}, whose commands tests run")


def _as(found: Finding, how: str) -> Finding:
    state: State = found.state
    return Finding("", state, f"{found.what} ({how})", found.act, found.page)


def _holds_key(path: Path) -> bool:
    try:
        return path.is_file() and _PRIVATE in path.read_text(errors="replace")
    except OSError:
        return False


def _in_repository(path: Path) -> bool:
    """Say whether a file would be committed: below a tree's root, and not ignored there."""
    if not path.is_absolute() and not path.exists():
        return False
    place = path.resolve()
    for parent in place.parents:
        if (parent / ".git").exists():
            git = shutil.which("git")
            if git is None:
                return True
            ignored = subprocess.run(  # noqa: S603 - the operator's own git
                [git, "-C", str(parent), "check-ignore", "-q", str(place)],
                capture_output=True,
                check=False,
            )
            return ignored.returncode != 0
    return False
