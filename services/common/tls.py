"""Certificates in use: read from their directory, and read again when they are renewed.

A pair of files that does not belong together (a renewal caught half-way) is never used: what was
read before stays until the pair is whole.
"""

from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from services.common.settings import CommonSettings, SettingsError

_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Material:
    """One service's certificate chain, its key, and whom it trusts; all PEM."""

    ca: bytes
    chain: bytes
    key: bytes


class CertificateFiles:
    """The three files of one service in the certificate directory.

    Args:
        directory: holds `ca.pem`, `<name>.pem`, `<name>-key.pem`.
        name: the service.
    """

    def __init__(self, directory: Path, name: str) -> None:
        """See the class.

        Raises:
            SettingsError: a file is missing, unreadable or does not belong to the others.
        """
        self._paths = (
            directory / "ca.pem",
            directory / f"{name}.pem",
            directory / f"{name}-key.pem",
        )
        try:
            self._stamp = self._look()
            self._material = self._read()
        except (OSError, ValueError) as error:
            msg = f"WEAVER_TLS_DIR: cannot use the certificate of {name} in {directory}: {error}"
            raise SettingsError(msg) from None

    @property
    def material(self) -> Material:
        """What was read last."""
        return self._material

    def renewed(self) -> bool:
        """Read the files again if they changed, and return whether there is something new."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return False
            material = self._read()
        except (OSError, ValueError):
            return False
        self._stamp, changed = stamp, material != self._material
        self._material = material
        return changed

    def _look(self) -> _Stamp:
        stats = [path.stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _read(self) -> Material:
        ca, chain, key = (path.read_bytes() for path in self._paths)
        x509.load_pem_x509_certificates(ca)
        certificate = x509.load_pem_x509_certificates(chain)[0]
        private = serialization.load_pem_private_key(key, password=None)
        if private.public_key() != certificate.public_key():
            msg = f"{self._paths[2].name} is not the key of {self._paths[1].name}"
            raise ValueError(msg)
        return Material(ca, chain, key)


def server_credentials(
    settings: CommonSettings, name: str, *, client_certificates: bool
) -> grpc.ServerCredentials:
    """Return credentials for a listener; new handshakes use renewed files.

    Raises:
        SettingsError: the certificate cannot be used.
    """
    files = CertificateFiles(settings.tls_path, name)

    def configuration() -> grpc.ServerCertificateConfiguration:
        material = files.material
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.chain)], root_certificates=material.ca
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        return configuration() if files.renewed() else None

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        renewed,  # type: ignore[arg-type]  # None is allowed and means no change
        require_client_authentication=client_certificates,
    )


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Return credentials for a channel that shows the certificate and trusts the authority."""
    return grpc.ssl_channel_credentials(material.ca, material.key, material.chain)
