"""`weaver secrets create`: what a deployment with Compose needs, and nothing twice."""

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from services.audit.keys.files import read_file
from services.cli.deployment_secrets import PLACES, app
from services.common.tls import CertificateFiles


def create(directory: Path, *options: str) -> Result:
    arguments = ["create", str(directory), "--bits", "2048", "--owner", str(os.geteuid())]
    return CliRunner().invoke(app, [*arguments, *options])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("deployment") / "secrets"
    result = create(directory)
    assert result.exit_code == 0, result.output
    return directory


def test_each_container_finds_its_certificate_and_the_authority(made: Path) -> None:
    authority = (made / "ca" / "ca.pem").read_bytes()
    for place, names in PLACES.items():
        for name in names:
            material = CertificateFiles(made / place / "tls", name).material
            assert material.ca == authority
            certificate = x509.load_pem_x509_certificate(material.chain)
            names_of = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names_of.value.get_values_for_type(x509.UniformResourceIdentifier)
            assert uris == ([] if name == "front" else [f"spiffe://weaver/{name}"])


def test_no_directory_holds_the_key_of_another(made: Path) -> None:
    for place, names in PLACES.items():
        keys = {path.name for path in (made / place).rglob("*-key.pem")}
        allowed = {f"{name}-key.pem" for name in names}
        allowed |= {"gateway": {"jwt-public-key.pem"}, "audit": SIGNING}.get(place, set())
        assert keys - {"verification-key.pem"} <= allowed
    assert not list((made / "gateway").rglob("jwt-key.pem"))


SIGNING = {"signing-key.pem", "ed25519-key.pem"}


def test_private_files_are_their_owners_alone(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for name in ("audit/signing-key.pem", "audit/store-key", "gateway/api-keys", "ca/ca-key.pem"):
        assert not stat.S_IMODE((made / name).stat().st_mode) & 0o077, name


def test_the_keys_of_the_log_are_as_the_audit_service_reads_them(made: Path) -> None:
    for name in SIGNING:
        assert b"PRIVATE KEY" in read_file(made / "audit" / name, name, private=True)


def test_everybody_who_needs_the_store_has_the_same_password(made: Path) -> None:
    passwords = {
        (made / name).read_text().strip()
        for name in ("redis/password", "gateway/redis-password", "ratelimit/redis-password")
    }
    (password,) = passwords
    assert len(password) >= 32
    stores = json.loads((made / "redis-exporter" / "passwords.json").read_text())
    assert set(stores.values()) == passwords


def test_a_second_run_makes_what_is_missing_and_replaces_nothing(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    (made / "model" / "tls" / "model.pem").unlink()
    (made / "model" / "tls" / "model-key.pem").unlink()
    result = create(made)
    assert result.exit_code == 0
    assert {Path(line).name for line in result.stdout.splitlines()} == {
        "model.pem",
        "model-key.pem",
    }
    CertificateFiles(made / "model" / "tls", "model")
    for path, content in before.items():
        if path.parent.parent.name != "model":
            assert path.read_bytes() == content, path
    assert create(made).stdout == ""


def test_who_cannot_give_files_away_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    result = CliRunner().invoke(app, ["create", str(tmp_path / "secrets"), "--owner", "10001"])
    assert result.exit_code == 2
    assert "use sudo" in result.output
    assert not (tmp_path / "secrets").exists()
    assert create(tmp_path / "secrets", "--bits", "1024").exit_code == 2
