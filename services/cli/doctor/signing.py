"""Signing keys: usable, for their owner alone, young, and known to those who verify."""

import json
from collections.abc import Iterator

from services.audit.keys.archive import ROTATE_DAYS, ArchiveError, KeyArchive, load_archive
from services.cli.doctor.finding import Finding
from services.cli.doctor.surroundings import Surroundings
from services.cli.keys.checking import CheckedKey, check_key
from services.cli.keys.options import key_sources

_PAGE = "keys.md"


def examine(around: Surroundings) -> Iterator[Finding]:
    """Look at the keys on this machine, and at those that the log publishes."""
    checked = keys_here(around)
    if not checked:
        scrape = around.scrape("audit")
        ages = [] if scrape is None else scrape.samples.get("audit_key_age_days", [])
        if not ages:
            what = "the signing keys are not on this machine, and the audit service does not say"
            yield Finding("keys", "unknown", what, "run this where the audit service runs", _PAGE)
        for sample in ages:
            name = sample.labels.get("algorithm", "")
            old = sample.value > ROTATE_DAYS
            what = f"the {name} key is {int(sample.value)} days old"
            act = "weaver keys rotate" if old else ""
            yield Finding("keys", "bad" if old else "good", what, act, _PAGE)
        return
    for key in checked:
        for problem in key.problems:
            yield Finding("keys", "bad", problem, "weaver keys check", _PAGE)
        for warning in key.warnings:
            yield Finding("keys", "warning", warning, "", _PAGE)
        if not key.problems:
            age = "" if key.age_days is None else f", {int(key.age_days)} days old"
            bits = "" if key.bits is None else f", {key.bits} bits"
            yield Finding("keys", "good", f"{key.source}: {key.algorithm}{bits}{age}")
    yield from _published(around, checked)


def keys_here(around: Surroundings) -> list[CheckedKey]:
    """Return what is found of the private keys that are on this machine; none elsewhere."""
    archive = archive_here(around)
    return [
        check_key(source, around.audit, archive)
        for source in key_sources(around.audit)
        if source.private.text is not None
        or (source.private.path is not None and source.private.path.exists())
    ]


def archive_here(around: Surroundings) -> KeyArchive | None:
    """Return the archive of public keys beside the log; None where there is none."""
    try:
        return load_archive(around.layout.keys)
    except (ArchiveError, OSError):
        return None


def _published(around: Surroundings, checked: list[CheckedKey]) -> Iterator[Finding]:
    """Compare the keys that sign with those that the front door hands to verifiers."""
    try:
        headers = {"authorization": f"Bearer {around.credential()}"}
        answer = around.ask_front("/v1/audit/keys", headers)
        published = {key["fingerprint"] for key in json.loads(answer.body)["keys"]}
    except (OSError, ValueError, KeyError, TypeError):
        what = "which keys the front door publishes cannot be seen"
        act = "set WEAVER_API_KEY to an auditor's key or token"
        yield Finding("keys", "unknown", what, act, "verify.md")
        return
    for key in checked:
        if key.fingerprint and key.fingerprint not in published:
            what = f"the {key.algorithm} key {key.fingerprint[:16]} is not among the published ones"
            act = "is it the key of another deployment? If the service is to use it, wait for it"
            yield Finding("keys", "bad", what, act, _PAGE)
        elif key.fingerprint:
            yield Finding("keys", "good", f"the {key.algorithm} key is published to verifiers")
