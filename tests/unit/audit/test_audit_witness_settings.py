"""What the settings say of witnesses is checked at the start, by the variable's name."""

from pathlib import Path

import pytest

from services.audit.history import read_history
from services.audit.keys.signatures import load_keys
from services.audit.keys.signers import Signer, load_ed25519
from services.audit.layout import Layout
from services.audit.verification.offline import published_before
from services.audit.verification.verifier import verify
from services.common.settings import SettingsError
from tests.fakes.auditlog import quick_keys, record, running_log

KEY = Signer("weaver.test/log", load_ed25519(quick_keys()[1].encode(), "test")).verifier


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file"),
        ("quorum w\n", "line 1"),
        ("", "no quorum line"),
        (f"witness w {KEY} https://w.example\nquorum w\n", "line 1"),
    ],
)
async def test_a_bad_policy_stops_the_start_by_its_name(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    policy = tmp_path / "policy"
    if text is not None:
        policy.write_text(text)
    with pytest.raises(SettingsError, match=problem) as refused:
        async with running_log(tmp_path / "state", witness_policy=policy):
            pytest.fail("it started")
    assert str(refused.value).startswith("WEAVER_AUDIT_WITNESS_POLICY: ")
    assert not (tmp_path / "state" / "audit").exists()


async def test_authorities_that_cannot_be_read_stop_the_start_by_their_name(tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    policy.write_text("quorum none\n")
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    for authority in (bad, tmp_path / "missing.pem"):
        with pytest.raises(SettingsError, match=r"^WEAVER_AUDIT_WITNESS_CA: "):
            async with running_log(tmp_path / "state", witness_policy=policy, witness_ca=authority):
                pytest.fail("it started")


async def test_a_forged_witnessed_checkpoint_is_found_by_the_verifier(tmp_path: Path) -> None:
    async with running_log(tmp_path / "state") as running:
        await running.append([record(1), record(2)])
    witnessed = running.log / "checkpoint.witnessed"
    lines = (running.log / "checkpoint").read_text().split("\n")
    for change in (("1", lines[2]), (lines[1], "A" * 43 + "=")):
        witnessed.write_text("\n".join([lines[0], *change, *lines[3:]]))
        report = verify(
            running.log,
            load_keys(Layout(running.log).keys),
            history=published_before(running.log),
        )
        assert not report.passed("integrity")
        assert not report.passed("signatures")
    witnessed.unlink()
    assert read_history(Layout(running.log).history)
