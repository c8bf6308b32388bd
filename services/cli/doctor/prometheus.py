"""Asks a Prometheus which alerts it has loaded."""

import json
import urllib.error
import urllib.request

from services.cli.doctor.surroundings import TIMEOUT_S


def loaded_alerts(url: str) -> set[str]:
    """Return the names of the alerts that a Prometheus evaluates.

    Raises:
        OSError: it does not answer, or not as one does.
    """
    if not url.startswith(("http://", "https://")):
        msg = "is no http(s) address"
        raise ConnectionError(msg)
    place = f"{url.rstrip('/')}/api/v1/rules?type=alert"
    try:
        with urllib.request.urlopen(place, timeout=TIMEOUT_S) as reply:  # noqa: S310 - checked above
            groups = json.load(reply)["data"]["groups"]
        return {rule["name"] for group in groups for rule in group["rules"]}
    except (ValueError, KeyError, TypeError):
        msg = "does not answer as Prometheus does"
        raise ConnectionError(msg) from None
