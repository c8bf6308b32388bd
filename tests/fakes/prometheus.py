"""A real Prometheus with the shipped rules, in a hurry: it looks each second and waits for none."""

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.fakes.sentinel import free_ports

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
PATIENCE_S = 45.0


class Prometheus:
    """One server.

    Args:
        directory: where it keeps what it needs.
        targets: `host:port` by the name of the job.
    """

    def __init__(self, directory: Path, targets: Mapping[str, str]) -> None:
        """See the class."""
        self._directory = directory
        self._targets = targets
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that fire, each with its job."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/api/v1/alerts", timeout=5
            ) as reply:
                alerts: list[dict[str, Any]] = json.load(reply)["data"]["alerts"]
        except OSError:
            return set()
        return {
            (alert["labels"]["alertname"], alert["labels"].get("job", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def has_fired(self, alert: str) -> bool:
        """Say whether an alert fired within the last minutes."""
        query = f'count_over_time(ALERTS{{alertname="{alert}",alertstate="firing"}}[5m])'
        return bool(self._ask(query))

    def _ask(self, query: str) -> list[Any]:
        """Return what a query finds now."""
        words = urllib.parse.urlencode({"query": query})
        place = f"http://127.0.0.1:{self.port}/api/v1/query?{words}"
        with urllib.request.urlopen(place, timeout=5) as reply:
            found: list[Any] = json.load(reply)["data"]["result"]
        return found

    def wait_for(self, alert: str, *, firing: bool = True) -> None:
        """Wait until an alert fires, or no more."""
        end = time.monotonic() + PATIENCE_S
        while (alert in {name for name, _ in self.firing()}) is not firing:
            said = "fire" if firing else "cease"
            assert time.monotonic() < end, f"{alert} does not {said}: {self.firing()}"
            time.sleep(0.3)

    def __enter__(self) -> Self:
        """Start."""
        program = shutil.which("prometheus")
        assert program, "make test-operations needs Debian's package prometheus"
        rules = self._directory / "rules"
        rules.mkdir(parents=True)
        for path in RULES.glob("*.rules.yaml"):
            text = re.sub(r"^( +)for: .*$", r"\1for: 0s", path.read_text(), flags=re.MULTILINE)
            (rules / path.name).write_text(
                re.sub(r"^( +)interval: .*$", "", text, flags=re.MULTILINE)
            )
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [place]}]}
            for name, place in self._targets.items()
        ]
        configuration = {
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "evaluation_interval": "1s",
            },
            "rule_files": [f"{rules}/*.yaml"],
            "scrape_configs": jobs,
        }
        (self._directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        arguments = [f"--config.file={self._directory}/prometheus.yaml"]
        arguments += [f"--storage.tsdb.path={self._directory}/data"]
        arguments += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        self.wait_for("Watchdog")
        # It first looks at its targets up to five seconds later; a short outage would be over.
        end = time.monotonic() + PATIENCE_S
        while len(self._ask("up")) < len(self._targets):
            assert time.monotonic() < end, "not every target was looked at"
            time.sleep(0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
