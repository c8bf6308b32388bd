"""Keys through the front door: every change is authorised and recorded by a gateway."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from services.cli import token
from services.cli.apikeys.options import Document
from services.cli.chat import Refused, front, said, trust
from services.cli.settings import EdgeSettings
from services.common.settings import SettingsError, load

PATH: Final = "/v1/admin/api_keys"
TIMEOUT_S: Final = 15.0


class FrontDoor:
    """The port `Door`, over HTTPS."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        """See `open_front_door`."""
        self._client = client
        self._url = url

    def create(self, order: Document) -> Document:
        """Make a key."""
        return self._ask("POST", "", json=order)

    def page(self, wanted: dict[str, str], token: str) -> Document:
        """Return a page of keys."""
        return self._ask("GET", "", params={**wanted, "page_token": token, "page_size": "1000"})

    def get(self, id_: str) -> Document:
        """Return one."""
        return self._ask("GET", f"/{id_}")

    def change(self, id_: str, action: str, order: Document) -> Document:
        """Update, disable, enable or rotate one."""
        if "update_mask" in order:
            # In JSON the names of fields in a mask are written like this.
            mask = order["update_mask"].replace("time_to_live_seconds", "timeToLiveSeconds")
            order = {**order, "update_mask": mask}
        return self._ask("POST", f"/{id_}/{action}", json=order)

    def _ask(self, method: str, path: str, **request: Any) -> Document:  # noqa: ANN401 - httpx's options
        try:
            reply = self._client.request(method, PATH + path, **request)
        except httpx.HTTPError as error:
            msg = (
                f"cannot reach {self._url}: {error}. Is the gateway running? `--store` works "
                "without one."
            )
            raise Refused(msg) from None
        if reply.is_error:
            raise Refused(said(reply))
        answer: Document = reply.json()
        return answer


@contextmanager
def open_front_door(url: str) -> Iterator[FrontDoor]:
    """Yield the front door, with an administrator's credential.

    Raises:
        SettingsError: there is no credential, or a setting is bad.
    """
    settings = load(EdgeSettings)
    place = url or front(settings)
    context: ssl.SSLContext = trust(settings.tls_path / "ca.pem")
    with httpx.Client(
        base_url=place,
        verify=context,
        timeout=TIMEOUT_S,
        trust_env=False,
        headers={"authorization": f"Bearer {_credential(settings)}"},
    ) as client:
        yield FrontDoor(client, place)


def _credential(settings: EdgeSettings) -> str:
    given = os.environ.get("WEAVER_API_KEY")
    if given:
        return given
    try:
        return token.administrator(settings.state_dir)
    except SettingsError:
        msg = (
            "WEAVER_API_KEY: set it to a key or token with the role `admin`. There is none yet? "
            "`weaver apikeys create --store --role admin --owner NAME` makes one."
        )
        raise SettingsError(msg) from None
