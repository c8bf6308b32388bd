"""The local certificate authority: makes the suite's certificates where nobody else does.

Outside production, and only where `WEAVER_TLS_DIR` is not set, the first process to start makes a
certificate authority and one certificate for each service, for Envoy and for the front door. Those
that start at the same moment wait for it. A certificate is renewed when less than a third of its
validity is left. This room never touches a directory that an operator configured.
"""

import datetime as dt
import fcntl
import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.common.files import replace_file
from services.common.peer import TRUST_DOMAIN
from services.common.settings import CommonSettings

SERVICES = ("gateway", "ratelimit", "model", "audit", "envoy")
FRONT_DOOR = "front"
_CA_VALIDITY = dt.timedelta(days=3650)
_LEAF_VALIDITY = dt.timedelta(days=90)
_CLOCK_SKEW = dt.timedelta(minutes=5)
_HOSTS: tuple[x509.GeneralName, ...] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)


def ensure(settings: CommonSettings, *, now: dt.datetime | None = None) -> list[str]:
    """Make or renew what is missing or old, and return the names of what was made.

    Does nothing in production, or where an operator set the directory.
    """
    if settings.production or settings.tls_dir is not None:
        return []
    moment = now or dt.datetime.now(dt.UTC)
    directory = settings.tls_path
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    with _locked(directory):
        ca = _load(directory, "ca")
        made = []
        if ca is None or not _fresh(ca[0], moment):
            ca = _make_ca(moment)
            _save(directory, "ca", *ca)
            made.append("ca")
        for name in (*SERVICES, FRONT_DOOR):
            leaf = _load(directory, name)
            if leaf is None or not _fresh(leaf[0], moment) or not _issued_by(leaf[0], ca[0]):
                _save(directory, name, *_make_leaf(name, ca, moment))
                made.append(name)
    return made


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _load(directory: Path, name: str) -> Pair | None:
    try:
        certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
        key = serialization.load_pem_private_key(
            (directory / f"{name}-key.pem").read_bytes(), password=None
        )
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    return (certificate, key) if key.public_key() == certificate.public_key() else None


def _save(
    directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    replace_file(directory / f"{name}-key.pem", key_pem, 0o600)
    public = certificate.public_bytes(serialization.Encoding.PEM)
    replace_file(directory / f"{name}.pem", public, 0o644)


def _fresh(certificate: x509.Certificate, now: dt.datetime) -> bool:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start <= now and (end - now) * 3 >= end - start


def _issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    key: ec.EllipticCurvePrivateKey, now: dt.datetime, validity: dt.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + validity)
        .public_key(key.public_key())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _make_ca(now: dt.datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(key, now, _CA_VALIDITY)
        .subject_name(_name("Weaver local CA"))
        .issuer_name(_name("Weaver local CA"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _make_leaf(name: str, ca: Pair, now: dt.datetime) -> Pair:
    """Make a certificate: a service's serves and calls, the front door's only serves."""
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [*_HOSTS]
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
    if name != FRONT_DOOR:
        names[:0] = [x509.UniformResourceIdentifier(TRUST_DOMAIN + name), x509.DNSName(name)]
        purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    ca_certificate, ca_key = ca
    certificate = (
        _builder(key, now, _LEAF_VALIDITY)
        .subject_name(_name(name))
        .issuer_name(ca_certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return certificate, key
