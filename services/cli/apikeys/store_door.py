"""Keys in their store, past every gateway: for the first one, and when no gateway runs."""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from services.cli.apikeys.options import Document, who
from services.cli.rundir import RunDirectory
from services.common.clock import SystemClock
from services.common.errors import Unavailable
from services.common.settings import SettingsError, load
from services.gateway.apikeys import order as orders
from services.gateway.apikeys import text
from services.gateway.apikeys.administration import Administration, Change, Filter
from services.gateway.apikeys.documents import document, written_document
from services.gateway.apikeys.ports import Written
from services.gateway.apikeys.seen import Seen
from services.gateway.apikeys.settings import ApiKeySettings
from services.gateway.apikeys.valkey_store import ValkeyStore
from services.gateway.apikeys.wiring import open_store
from services.gateway.principal import OwnLimits

PAGE = 1_000
REMEMBERED = 1_000

Result = TypeVar("Result")


class _AnyRole:
    """Takes every role for one that there is: only gateways know their file of roles."""

    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class StoreDoor:
    """The port `Door`, over the store.

    Args:
        runner: runs what waits.
        administration: changes keys.
        default_tenant: the tenant of keys that are made without one.
    """

    def __init__(
        self, runner: asyncio.Runner, administration: Administration, default_tenant: str
    ) -> None:
        """See the class."""
        self._runner = runner
        self._admin = administration
        self._default_tenant = default_tenant

    def create(self, order: Document) -> Document:
        """Make a key."""
        new = orders.NewKey(
            order.get("tenant") or self._default_tenant,
            order["owner"],
            tuple(order.get("roles") or ("user",)),
            tuple(order.get("models", ())),
            OwnLimits(**order.get("limits", {})),
            order.get("time_to_live_seconds", 0),
        )
        orders.check_new(new, _AnyRole())
        made = text.make()
        written = self._run(self._admin.create(made, new, who()))
        return {"id": made.id, "key": made.text} | self._shown(written)

    def page(self, wanted: dict[str, str], token: str) -> Document:
        """Return a page of keys."""
        keys, more = self._run(self._admin.page(Filter(**wanted), int(token or 0), PAGE))
        now = self._admin.now()
        shown = [document(key, now) for key in keys]
        return {"api_keys": shown, "next_page_token": "" if more is None else str(more)}

    def get(self, id_: str) -> Document:
        """Return one."""
        return document(self._run(self._admin.get(orders.check_id(id_))), self._admin.now())

    def change(self, id_: str, action: str, order: Document) -> Document:
        """Update, disable, enable or rotate one."""
        orders.check_id(id_)
        if action != "rotate":
            return self._shown(self._run(self._admin.change(id_, _change(action, order), who())))
        overlap_s = orders.check_overlap(
            order.get("overlap_seconds", 0), none=order.get("without_overlap", False)
        )
        made = text.make(id_)
        written = self._run(
            self._admin.change(
                id_,
                lambda key, now: key.rotated(made.text, overlap_s=overlap_s, now=now),
                who(),
            )
        )
        return {"id": id_, "key": made.text} | self._shown(written)

    def _shown(self, written: Written) -> Document:
        return written_document(written, self._admin.now())

    def _run(self, doing: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(doing)


@contextmanager
def open_store_door() -> Iterator[StoreDoor]:
    """Yield the store.

    Raises:
        SettingsError: a setting is bad, or nobody says where the store is.
        Unavailable: the store cannot be reached.
    """
    # What production asks of a gateway, such as certificates, is not asked of who visits its store.
    settings = load(ApiKeySettings, environment="development", **_of_weaver_up())
    if not settings.manages_api_keys:
        msg = "REDIS_HOST: say where the store of API keys is, here or in WEAVER_API_KEY_STORE."
        raise SettingsError(msg)
    settings.check_api_keys(alone=False)
    said: list[str] = []
    store = open_store(settings, lambda up, detail: None if up else said.append(detail))
    with asyncio.Runner() as runner:
        runner.run(store.start())
        try:
            if said:
                msg = f"the store of API keys cannot be reached: {said[-1]}."
                raise Unavailable(msg)
            administration = Administration(
                store, Seen(REMEMBERED), _nothing, SystemClock(), past_gateway=True
            )
            yield StoreDoor(runner, administration, settings.default_tenant)
        finally:
            runner.run(_close(store))


async def _close(store: ValkeyStore) -> None:
    await store.close()


async def _nothing() -> None:
    """Give nothing back: what a command has seen is what the store says."""


def _change(action: str, order: Document) -> Change:
    if action == "update":
        fields = dict(order)
        mask = fields.pop("update_mask").split(",")
        values: dict[str, Any] = {
            "owner": fields.get("owner", ""),
            "roles": tuple(fields.get("roles", ())),
            "models": tuple(fields.get("models", ())),
            "limits": OwnLimits(**fields.get("limits", {})),
            "life_s": fields.get("time_to_live_seconds", 0),
        }
        names = {"time_to_live_seconds": "life_s"}
        edit = orders.Edit(
            **{names.get(name, name): values[names.get(name, name)] for name in mask}
        )
        return orders.check_edit(edit, _AnyRole()).applied
    return lambda key, _: key.switched(disabled=action == "disable")


def _of_weaver_up() -> dict[str, Any]:
    """Return where the store of `weaver up` is, where one runs here and nothing else is said."""
    named = ("WEAVER_API_KEY_STORE", "WEAVER_API_KEY_STORE_FILE", "REDIS_HOST", "REDIS_SENTINELS")
    if any(name in os.environ for name in (*named, "REDIS_UNIX_SOCKET")):
        return {}
    state = Path(os.environ.get("WEAVER_STATE_DIR", ".weaver"))
    socket = RunDirectory(state).sockets / "valkey.sock"
    return {"redis_unix_socket": socket} if socket.exists() else {}
