"""Signing keys: what is refused, what is made, and the archive of those that ever signed."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from services.audit import keys
from services.audit.archive import ArchiveError, KeyArchive, load_archive, rfc3339
from services.audit.keys import KeyProblem, Signer
from services.audit.settings import AuditSettings
from services.audit.signatures import load_keys
from services.audit.wiring import load_signers
from services.common.settings import SettingsError, load
from tests.fakes.auditlog import quick_keys, running_log, settings_in

RSA, ED25519 = (text.encode() for text in quick_keys())
EC = generate_private_key(SECP256R1()).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)


def test_a_key_that_is_too_weak_is_refused() -> None:
    assert keys.load_rsa(RSA, "VARIABLE", production=False).key_size == 2048
    with pytest.raises(KeyProblem, match="VARIABLE: the RSA key has 2048 bits; at least 3072"):
        keys.load_rsa(RSA, "VARIABLE", production=True)
    weak = keys.private_pem(keys.generate_rsa(1024))
    with pytest.raises(KeyProblem, match="at least 2048"):
        keys.load_rsa(weak, "VARIABLE", production=False)


@pytest.mark.parametrize("pem", [b"", b"nonsense", EC, ED25519])
def test_what_is_no_rsa_key_is_refused_without_showing_it(pem: bytes) -> None:
    with pytest.raises(KeyProblem, match=r"^VARIABLE: holds no .*private key") as caught:
        keys.load_rsa(pem, "VARIABLE", production=False)
    assert "nonsense" not in str(caught.value)
    with pytest.raises(KeyProblem, match="Ed25519"):
        keys.load_ed25519(RSA, "VARIABLE")


def test_an_encrypted_key_is_refused() -> None:
    encrypted = keys.generate_ed25519().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(KeyProblem, match="encrypted"):
        keys.load_ed25519(encrypted, "VARIABLE")


def test_a_public_key_must_be_the_other_half() -> None:
    private = keys.load_ed25519(ED25519, "test")
    own = Signer("name", private).verifier.pem.encode()
    other = Signer("name", keys.generate_ed25519()).verifier.pem.encode()
    keys.check_pair(private, own, "VARIABLE")
    for pem in (other, b"nonsense", EC):
        with pytest.raises(KeyProblem, match="VARIABLE"):
            keys.check_pair(private, pem, "VARIABLE")


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(KeyProblem, match="cannot read"):
        keys.check_file(path, "VARIABLE_FILE")
    path.write_bytes(RSA)
    path.chmod(0o644)
    with pytest.raises(KeyProblem, match="can be read by everybody"):
        keys.check_file(path, "VARIABLE_FILE")
    path.chmod(0o640)
    keys.check_file(path, "VARIABLE_FILE")


def test_development_keys_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    where = tmp_path / "keys"
    rsa = keys.load_or_make_rsa(where, 2048)
    ed25519 = keys.load_or_make_ed25519(where)
    assert where.stat().st_mode & 0o777 == 0o700
    assert (where / keys.RSA_FILE).stat().st_mode & 0o777 == 0o600
    assert (where / keys.ED25519_FILE).stat().st_mode & 0o777 == 0o600
    assert keys.load_or_make_rsa(where).private_numbers() == rsa.private_numbers()
    assert keys.private_pem(keys.load_or_make_ed25519(where)) == keys.private_pem(ed25519)
    keys.check_pair(rsa, (where / keys.RSA_PUBLIC_FILE).read_bytes(), "test")
    with pytest.raises(KeyProblem, match="File exists"):
        keys.write_private(where / keys.RSA_FILE, rsa)


def test_a_signer_shows_its_public_half_alone() -> None:
    signer = Signer("name", keys.load_rsa(RSA, "test", production=False))
    assert repr(signer) == f"Signer(RSA {signer.verifier.fingerprint})"


@pytest.mark.parametrize(
    ("missing", "variable"),
    [
        ("WEAVER_TELEMETRY_SIGNING_KEY", "WEAVER_TELEMETRY_SIGNING_KEY"),
        ("WEAVER_AUDIT_ED25519_KEY", "WEAVER_AUDIT_ED25519_KEY"),
    ],
)
def test_production_needs_keys_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, variable: str
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    monkeypatch.setenv("WEAVER_TELEMETRY_SIGNING_KEY", RSA.decode())
    monkeypatch.setenv("WEAVER_AUDIT_ED25519_KEY", ED25519.decode())
    load(AuditSettings)
    monkeypatch.delenv(missing)
    with pytest.raises(SettingsError, match=f"{variable}: production needs a key"):
        load(AuditSettings)


def test_production_cannot_switch_signing_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    monkeypatch.setenv("WEAVER_TELEMETRY_SIGNING_ENABLED", "false")
    with pytest.raises(SettingsError, match="WEAVER_TELEMETRY_SIGNING_ENABLED"):
        load(AuditSettings)


def test_keys_come_from_files_and_from_pem_with_written_out_line_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(RSA)
    path.chmod(0o600)
    monkeypatch.setenv("WEAVER_TELEMETRY_SIGNING_KEY_FILE", str(path))
    monkeypatch.setenv("WEAVER_AUDIT_ED25519_KEY", ED25519.decode().replace("\n", "\\n"))
    signers = load_signers(load(AuditSettings))
    assert [signer.verifier.algorithm for signer in signers] == ["RSA", "Ed25519"]
    path.chmod(0o604)
    with pytest.raises(KeyProblem, match=r"WEAVER_TELEMETRY_SIGNING_KEY_FILE: .* everybody"):
        load_signers(load(AuditSettings))


async def test_a_mismatched_verification_key_stops_the_start(tmp_path: Path) -> None:
    other = Signer("name", keys.generate_ed25519()).verifier.pem
    with pytest.raises(SettingsError, match="WEAVER_TELEMETRY_VERIFICATION_KEY"):
        async with running_log(tmp_path, verification_key=other):
            pass


@pytest.mark.parametrize("origin", ["a b", "a+b", "a\nb"])
def test_an_origin_that_is_no_key_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    monkeypatch.setenv("WEAVER_AUDIT_ORIGIN", origin)
    with pytest.raises(SettingsError, match="WEAVER_AUDIT_ORIGIN"):
        load(AuditSettings)
    monkeypatch.setenv("WEAVER_AUDIT_ORIGIN", "audit.example.com/log")
    monkeypatch.setenv("WEAVER_AUDIT_REPLICA", "a/b")
    with pytest.raises(SettingsError, match="WEAVER_AUDIT_REPLICA"):
        load(AuditSettings)


def test_settings_name_what_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVER_AUDIT_ALLOWED_CLIENTS", "gateway, other")
    monkeypatch.setenv("WEAVER_AUDIT_ORIGIN", "audit.example.com/log")
    monkeypatch.setenv("WEAVER_AUDIT_PATH", "/var/log/weaver/audit")
    settings = load(AuditSettings)
    assert settings.allowed_clients == {"gateway", "other"}
    assert settings.log_origin == "audit.example.com/log"
    assert settings.log_path == Path("/var/log/weaver/audit")


def test_the_archive_keeps_every_key_with_its_validity(tmp_path: Path) -> None:
    one, two = (Signer("log", keys.generate_ed25519()).verifier for _ in range(2))
    archive = KeyArchive("log")
    assert archive.use([one], 1_700_000_000)
    assert not archive.use([one], 1_700_000_001)
    assert archive.use([two], 1_700_000_002.5)
    archive.save(tmp_path / "keys")
    again = load_archive(tmp_path / "keys")
    assert again.keys == archive.keys
    assert again.verifiers == [one, two]
    assert [key.end_time for key in again.keys] == ["2023-11-14T22:13:22.500Z", None]
    assert [key.key for key in again.active] == [two]
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


def test_an_archive_whose_parts_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ArchiveError, match="no key archive"):
        load_archive(path)
    archive = KeyArchive("log")
    archive.use([Signer("log", keys.generate_ed25519()).verifier], 1_700_000_000)
    archive.save(path)
    text = path.read_text()
    key = archive.keys[0]
    for changed in (
        text.replace(key.fingerprint, "0" * 64),
        text.replace('"Ed25519"', '"RSA"'),
        text.replace("PUBLIC KEY-----\\n", "PUBLIC KEY-----\\nX", 1),
        text.replace("2023-11-14", "2023-31-14"),
        text.replace(key.verifier_key, "nonsense"),
        text[:-20],
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(ArchiveError):
            load_archive(path)


@pytest.mark.parametrize("content", [b"", b"\xff", b"text", b"{}", b"-----BEGIN PUBLIC KEY-----"])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError):
        load_keys(tmp_path / "missing")
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ArchiveError):
        load_keys(tmp_path / "keys")


async def test_a_key_that_changes_is_archived_and_recorded(tmp_path: Path) -> None:
    async with running_log(tmp_path):
        pass
    new = keys.private_pem(keys.generate_ed25519()).decode()
    async with running_log(tmp_path, ed25519_key=new) as running:
        assert running.component.health.serving
    archive = load_archive(settings_in(tmp_path).log_path.with_name("log.keys"))
    assert [(key.algorithm, key.end_time is None) for key in archive.keys] == [
        ("RSA", True),
        ("Ed25519", False),
        ("Ed25519", True),
    ]
    assert [key.start_record for key in archive.keys] == [0, 1, 5]
    assert archive.keys[1].end_record == 4
    async with running_log(tmp_path, ed25519_key=new, signing_enabled=False) as running:
        pass
    assert (running.log / "checkpoint").read_text().count("—") == 1
