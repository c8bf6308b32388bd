"""Certificates: those on the disk, and those that are really served."""

import datetime as dt
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from services.cli import probe
from services.cli.doctor.finding import Finding, State, duration
from services.cli.doctor.surroundings import SERVICES, TIMEOUT_S, Surroundings
from services.cli.ports import LISTEN_DEFAULTS
from services.common.settings import SettingsError

SOON_DAYS = 7
_DAY_S = 86_400
_PAGE = "alerts/CertificateExpiring.md"
_ENDED = "alerts/CertificateExpired.md"
_SHARED = stat.S_IRWXO


def examine(around: Surroundings) -> Iterator[Finding]:
    """Look at every certificate of the directory, and at those that listeners serve."""
    directory = around.edge.tls_path
    on_disk: dict[str, x509.Certificate] = {}
    ca = _load(directory / "ca.pem")
    if ca is None:
        yield Finding(
            "certificates",
            "unknown",
            f"there is no {directory / 'ca.pem'} to look at from here",
            "run this where the services run, or set WEAVER_TLS_DIR",
        )
    for path in sorted(directory.glob("*.pem")):
        certificate = None if path.stem.endswith("-key") else _load(path)
        if certificate is not None:
            on_disk[path.stem] = certificate
            yield _age(str(path), certificate)
            yield from _beside(path, certificate, None if path.stem == "ca" else ca)
    yield from _served(around, on_disk)


def _age(name: str, certificate: x509.Certificate) -> Finding:
    left = (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)).total_seconds()
    early = (certificate.not_valid_before_utc - dt.datetime.now(dt.UTC)).total_seconds()
    state: State = "good"
    act = page = ""
    what = f"{name}: {duration(left)} left"
    if early > 0:
        state, what = "bad", f"{name} begins in {duration(early)}"
        act, page = "look at this machine's clock first", "alerts/ClockSkew.md"
    elif left <= 0:
        state, what = "bad", f"{name} ended {duration(-left)} ago"
        act, page = "renew it: connections that begin now are refused", _ENDED
    elif left < SOON_DAYS * _DAY_S:
        state, act, page = "warning", "renew it, or look at what should have", _PAGE
    return Finding("certificates", state, what, act, page)


def _beside(
    path: Path, certificate: x509.Certificate, ca: x509.Certificate | None
) -> Iterator[Finding]:
    """Look at the key that belongs to a certificate, and at who issued it."""
    key = path.with_name(f"{path.stem}-key.pem")
    with suppress(OSError):
        if key.stat().st_mode & _SHARED:
            yield Finding(
                "certificates", "bad", f"{key} can be read by everybody", f"chmod 600 {key}", _PAGE
            )
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        if private.public_key() != certificate.public_key():
            what = f"{key} does not belong to {path.name}"
            yield Finding("certificates", "bad", what, "put both in place together", _PAGE)
    if ca is None:
        return
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        # The front door's may be a public authority's.
        if path.stem != "front":
            what = f"{path} was not issued by ca.pem: its peers refuse it"
            yield Finding("certificates", "bad", what, "issue it anew from this authority", _PAGE)


def _served(around: Surroundings, on_disk: dict[str, x509.Certificate]) -> Iterator[Finding]:
    places = {"front": around.front}
    for service in SERVICES:
        variable = f"WEAVER_{service.upper()}_LISTEN"
        with suppress(SettingsError):
            address = os.environ.get(variable, LISTEN_DEFAULTS[variable])
            places[service] = probe.reachable(address, variable)
    for name, place in places.items():
        served = _served_at(place)
        if served is None:
            continue  # Whether it should listen here, other examinations say.
        finding = _age(f"what {name} serves at {place[0]}:{place[1]}", served)
        known = on_disk.get(name)
        if known is not None and known.serial_number != served.serial_number:
            what = f"{name} serves another certificate than {name}.pem"
            act = "wait a few seconds; then restart it, and tell us: it should read it by itself"
            finding = Finding("certificates", "warning", what, act, _PAGE)
        yield finding


def _served_at(place: tuple[str, int]) -> x509.Certificate | None:
    """Return what a listener serves; it shows it before it asks who we are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # What is served is looked at, whatever it is.
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(place, timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=place[0]) as line,
        ):
            der = line.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(der) if der else None


def _load(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None
