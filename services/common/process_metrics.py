"""What every service says of its process: version, clock, certificate.

The clock is the service's own at the moment of the scrape. Prometheus compares it with the
scrape's time by its own clock, which shows a skew without any other program.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.settings import CommonSettings


class ProcessMetrics(Collector):
    """The process of one service, looked at when somebody asks.

    Args:
        registry: the service's.
        name: the service.
        settings: version, and where its certificate lies.
    """

    def __init__(self, registry: CollectorRegistry, name: str, settings: CommonSettings) -> None:
        """See the class."""
        self._name = name
        self._settings = settings
        registry.register(self)
        ProcessCollector(registry=registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what Prometheus asks for."""
        build = InfoMetricFamily("weaver_build", "Which version this is.")
        build.add_metric(
            (), {"version": self._settings.otel_service_version, "service": self._name}
        )
        yield build
        yield GaugeMetricFamily(
            "weaver_clock_time_seconds", "The time by this machine's clock.", time.time()
        )
        expiry = GaugeMetricFamily(
            "weaver_certificate_expiry_time_seconds",
            "When the service's certificate ends, and the authority's, in Unix seconds.",
            labels=("certificate",),
        )
        if self._settings.mtls_enabled:
            for certificate in (self._name, "ca"):
                path = self._settings.tls_path / f"{certificate}.pem"
                with suppress(OSError, ValueError):
                    expiry.add_metric((certificate,), _expiry(path))
        yield expiry


def _expiry(path: Path) -> float:
    """Return when the first certificate of a chain to end does."""
    chain = x509.load_pem_x509_certificates(path.read_bytes())
    return min(one.not_valid_after_utc.timestamp() for one in chain)
