"""The local certificate authority, and reading what it made."""

import datetime as dt
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.common import certificates
from services.common.settings import CommonSettings, SettingsError
from services.common.tls import CertificateFiles

NAMES = ["ca", "gateway", "ratelimit", "model", "audit", "envoy", "front"]
NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def settings(tmp_path: Path) -> CommonSettings:
    return CommonSettings(state_dir=tmp_path)


def read(settings: CommonSettings, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((settings.tls_path / f"{name}.pem").read_bytes())


def names_of(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def test_the_first_start_makes_every_certificate(settings: CommonSettings) -> None:
    assert certificates.ensure(settings, now=NOW) == NAMES
    assert certificates.ensure(settings, now=NOW) == []


def test_a_service_is_named_by_uri_and_dns(settings: CommonSettings) -> None:
    certificates.ensure(settings)
    assert names_of(read(settings, "audit")) == [
        *("spiffe://weaver/audit", "audit", "localhost", "127.0.0.1", "::1"),
    ]
    assert names_of(read(settings, "front")) == ["localhost", "127.0.0.1", "::1"]
    for name in NAMES[1:]:
        read(settings, name).verify_directly_issued_by(read(settings, "ca"))


def test_the_front_door_certificate_cannot_call_services(settings: CommonSettings) -> None:
    certificates.ensure(settings)
    usage = read(settings, "front").extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert ExtendedKeyUsageOID.CLIENT_AUTH not in usage.value


def test_keys_are_for_their_owner_alone(settings: CommonSettings) -> None:
    certificates.ensure(settings)
    assert stat.S_IMODE(settings.tls_path.stat().st_mode) == 0o700
    for key in settings.tls_path.glob("*-key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_certificates_are_renewed_when_less_than_a_third_is_left(settings: CommonSettings) -> None:
    certificates.ensure(settings, now=NOW)
    assert certificates.ensure(settings, now=NOW + dt.timedelta(days=59)) == []
    assert certificates.ensure(settings, now=NOW + dt.timedelta(days=61)) == NAMES[1:]


def test_a_renewed_authority_issues_everything_anew(settings: CommonSettings) -> None:
    certificates.ensure(settings, now=NOW)
    assert certificates.ensure(settings, now=NOW + dt.timedelta(days=3000)) == NAMES


def test_a_certificate_of_another_authority_is_replaced(
    settings: CommonSettings, tmp_path: Path
) -> None:
    certificates.ensure(settings)
    other = CommonSettings(state_dir=tmp_path / "other")
    certificates.ensure(other)
    for name in ("ca.pem", "ca-key.pem"):
        (settings.tls_path / name).write_bytes((other.tls_path / name).read_bytes())
    assert certificates.ensure(settings) == NAMES[1:]


@pytest.mark.parametrize("damage", ["missing", "garbage", "other key", "rsa key"])
def test_what_is_damaged_is_made_again(settings: CommonSettings, damage: str) -> None:
    certificates.ensure(settings)
    key = settings.tls_path / "model-key.pem"
    if damage == "missing":
        key.unlink()
    elif damage == "garbage":
        key.write_text("garbage")
    elif damage == "other key":
        key.write_bytes((settings.tls_path / "audit-key.pem").read_bytes())
    else:
        private = rsa.generate_private_key(65537, 2048)
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert certificates.ensure(settings) == ["model"]


def test_processes_that_start_at_once_agree_on_one_authority(settings: CommonSettings) -> None:
    made: list[list[str]] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        barrier.wait()
        made.append(certificates.ensure(settings))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made, key=len) == [[], [], [], NAMES]


def test_production_makes_no_certificate(tmp_path: Path) -> None:
    settings = CommonSettings(environment="production", state_dir=tmp_path)
    assert certificates.ensure(settings) == []
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_an_operator_set_is_left_alone(tmp_path: Path) -> None:
    settings = CommonSettings(tls_dir=tmp_path / "theirs")
    assert certificates.ensure(settings) == []
    assert list(tmp_path.iterdir()) == []


def test_files_are_read_again_when_renewed(settings: CommonSettings) -> None:
    certificates.ensure(settings)
    files = CertificateFiles(settings.tls_path, "audit")
    before = files.material
    assert not files.renewed()
    (settings.tls_path / "audit-key.pem").unlink()
    assert not files.renewed()
    certificates.ensure(settings)
    assert files.renewed()
    assert files.material != before
    assert not files.renewed()


def test_a_pair_that_does_not_belong_together_is_not_used(settings: CommonSettings) -> None:
    certificates.ensure(settings)
    files = CertificateFiles(settings.tls_path, "audit")
    before = files.material
    other = (settings.tls_path / "model-key.pem").read_bytes()
    (settings.tls_path / "audit-key.pem").write_bytes(other)
    assert not files.renewed()
    assert files.material == before
    with pytest.raises(SettingsError, match="is not the key of"):
        CertificateFiles(settings.tls_path, "audit")


def test_files_that_were_only_touched_are_not_new(settings: CommonSettings) -> None:
    certificates.ensure(settings)
    files = CertificateFiles(settings.tls_path, "audit")
    path = settings.tls_path / "audit.pem"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert not files.renewed()


def test_missing_files_stop_the_start_with_the_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="WEAVER_TLS_DIR"):
        CertificateFiles(tmp_path, "audit")
