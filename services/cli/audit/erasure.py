"""`weaver audit forget`, `erase` and `who`: what the side store holds of people.

They speak to the running suite through its front door, with an administrator's credential. With
`--offline` they work on a log that no service writes, on the machine where it lies, with the
settings of the audit service. Either way the log records the order, and still verifies.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any

import httpx
import structlog
import typer

from services.audit.settings import AuditSettings
from services.cli import development
from services.cli.audit.options import AsJSON, usage
from services.cli.chat import front, said, trust
from services.cli.settings import EdgeSettings
from services.cli.token import mint
from services.common.errors import InvalidArgument, WeaverError
from services.common.local import LocalChannel
from services.common.settings import SettingsError, load
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import audit_service_pb2_grpc
from weaver.common.v1 import identity_pb2

_TIMEOUT_S = 120.0
_TOKEN_S = 60

Tenant = Annotated[str, typer.Option(help="Their tenant; needed where several share the subject.")]
Issuer = Annotated[str, typer.Option(help="Who vouches for the subject: `apikey`, or a `iss`.")]
Note = Annotated[
    str, typer.Option(help="Why, for the log, which keeps it for good: no names, 256 characters.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Work on the log itself; the audit service is stopped.")
]
URL = Annotated[str, typer.Option(help="The front door; default: the one of `weaver up` here.")]

app = typer.Typer()


@app.command("forget")
def forget_command(  # noqa: PLR0913, PLR0917 - each is an option
    principal: Annotated[str, typer.Argument(help="The subject, as `whoami` shows it.")],
    tenant: Tenant = "",
    issuer: Issuer = "",
    note: Note = "",
    offline: Offline = False,  # noqa: FBT002
    url: URL = "",
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Forget a principal: nobody can tie their records to them, nor read or prove a text, any more.

    The key of their pseudonym is destroyed, and with it the commitment keys and captured texts of
    their records. The log does not change. Their next call gets a new pseudonym.
    """
    asked = {"subject": principal, "tenant": tenant, "issuer": issuer, "note": note}
    done = _ask("forget", asked, offline=offline, url=url)
    _tell(
        done,
        f"forgotten: {done['pseudonym']} is nobody's any more; the keys and texts of "
        f"{done['erased']} records are destroyed (order: record {done['index']})",
        as_json=as_json,
    )
    if done["plain_records"] and not as_json:
        sys.stdout.write(
            f"{done['plain_records']} records from times without pseudonyms still name them, and "
            f"cannot be changed\n"
        )
    _remind(as_json=as_json)


@app.command("erase")
def erase_command(  # noqa: PLR0913, PLR0917 - each is an option
    indexes: Annotated[list[int] | None, typer.Argument(min=0, help="The records.")] = None,
    subject: Annotated[str, typer.Option(help="Or all records of this subject.")] = "",
    tenant: Tenant = "",
    issuer: Issuer = "",
    note: Note = "",
    offline: Offline = False,  # noqa: FBT002
    url: URL = "",
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Erase the commitment keys and captured texts of records; the records themselves stay."""
    if bool(indexes) == bool(subject):
        usage("name either records or a --subject")
    asked: dict[str, Any] = {"note": note}
    asked |= {"subject": subject, "tenant": tenant, "issuer": issuer} if subject else {}
    asked |= {"indexes": indexes} if indexes else {}
    done = _ask("erase", asked, offline=offline, url=url)
    told = f"erased: the keys and texts of {done['erased']} records (order: record {done['index']})"
    _tell(done, told, as_json=as_json)
    _remind(as_json=as_json)


@app.command("who")
def who_command(  # noqa: PLR0913, PLR0917 - each is an option
    name: Annotated[str, typer.Argument(help="A subject, or with --pseudonym what records show.")],
    pseudonym: Annotated[bool, typer.Option("--pseudonym", help="It is a pseudonym.")] = False,  # noqa: FBT002
    tenant: Tenant = "",
    issuer: Issuer = "",
    offline: Offline = False,  # noqa: FBT002
    url: URL = "",
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Tell the pseudonym of a principal, or whose a pseudonym is, while they are not forgotten."""
    asked = {"subject": name, "tenant": tenant, "issuer": issuer}
    if pseudonym:
        asked = {"pseudonym": name}
    found = _ask("look_up", asked, offline=offline, url=url)
    told = f"{found['tenant']} {found['issuer']} {found['subject']} is {found['pseudonym']}"
    _tell(found, told, as_json=as_json)


def _ask(what: str, asked: Mapping[str, Any], *, offline: bool, url: str) -> dict[str, Any]:
    """Give an order; end with a sentence when it is refused."""
    try:
        if offline:
            return asyncio.run(_alone(what, asked))
        return _through_the_front_door(what, asked, url)
    except SettingsError as error:
        usage(str(error))
    except InvalidArgument as error:
        usage(error.message)
    except WeaverError as error:
        sys.stderr.write(f"weaver: {error.message}\n")
    except httpx.HTTPError as error:
        sys.stderr.write(
            f"weaver: cannot reach the front door: {error}. Name it with --url, or stop the audit "
            f"service and use --offline where the log lies.\n"
        )
    raise typer.Exit(1)


def _through_the_front_door(what: str, asked: Mapping[str, Any], url: str) -> dict[str, Any]:
    settings = load(EdgeSettings)
    place = url or front(settings)
    headers = {"authorization": f"Bearer {_credential(settings)}"}
    context = trust(settings.tls_path / "ca.pem")
    with httpx.Client(verify=context, timeout=_TIMEOUT_S, trust_env=False) as client:
        reply = client.post(f"{place}/v1/admin/audit/{what}", json=dict(asked), headers=headers)
    if reply.is_error:
        sys.stderr.write(f"weaver: {said(reply)}\n")
        raise typer.Exit(1)
    answer: dict[str, Any] = reply.json()
    return answer


def _credential(settings: EdgeSettings) -> str:
    """Return an administrator's credential: the one given, or in development a fresh token."""
    given = os.environ.get("WEAVER_API_KEY")
    if given:
        return given
    try:
        development.refuse_elsewhere(os.environ)
        key = (settings.state_dir / "keys" / development.JWT_KEY).read_bytes()
    except (SettingsError, OSError):
        msg = "WEAVER_API_KEY: set an administrator's API key or token."
        raise SettingsError(msg) from None
    return mint(key, "operator", "default", ["admin"], _TOKEN_S)


async def _alone(what: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Open the log as its service does, give the order, and close it."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(40),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    settings = load(AuditSettings)
    tenant = asked.get("tenant") or os.environ.get("WEAVER_DEFAULT_TENANT", "default")
    principal = identity_pb2.Principal(
        tenant=tenant, issuer=asked.get("issuer") or "apikey", subject=asked.get("subject", "")
    )
    order = pb.Order(request_id="offline", note=asked.get("note", ""))
    async with AsyncExitStack() as stack:
        from services.audit.wiring import build  # noqa: PLC0415 - the whole service; most commands do without

        component = await build(settings, stack)
        channel: Any = LocalChannel("gateway")
        component.register(channel)
        stub: Any = audit_service_pb2_grpc.AuditServiceStub(channel)
        if principal.subject and not (asked.get("tenant") and asked.get("issuer")):
            principal = await _known(stub, asked) or principal
        if what == "forget":
            done = await stub.ForgetPrincipal(
                pb.ForgetPrincipalRequest(principal=principal, order=order)
            )
            return {
                "pseudonym": done.pseudonym,
                "erased": done.erased,
                "plain_records": done.plain_records,
                "index": done.index,
            }
        if what == "erase":
            request = pb.EraseRecordsRequest(indexes=asked.get("indexes", ()), order=order)
            if principal.subject:
                request.principal.CopyFrom(principal)
            done = await stub.EraseRecords(request)
            return {"erased": done.erased, "index": done.index}
        wanted = pb.LookUpPrincipalRequest(pseudonym=asked.get("pseudonym", ""))
        if principal.subject:
            wanted.principal.CopyFrom(principal)
        found = await stub.LookUpPrincipal(wanted)
        who = found.principal
        return {
            "tenant": who.tenant,
            "issuer": who.issuer,
            "subject": who.subject,
            "pseudonym": found.pseudonym,
        }


async def _known(stub: Any, asked: Mapping[str, Any]) -> identity_pb2.Principal | None:  # noqa: ANN401 - a stub
    """Return the one principal with a subject; None where none is known under a pseudonym."""
    partial = identity_pb2.Principal(
        tenant=asked.get("tenant", ""),
        issuer=asked.get("issuer", ""),
        subject=asked["subject"],
    )
    try:
        found = await stub.LookUpPrincipal(pb.LookUpPrincipalRequest(principal=partial))
    except InvalidArgument:
        raise
    except WeaverError:
        return None
    principal: identity_pb2.Principal = found.principal
    return principal


def _tell(done: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    sys.stdout.write((json.dumps(done) if as_json else sentence) + "\n")


def _remind(*, as_json: bool) -> None:
    if not as_json:
        sys.stdout.write(
            "older copies of the side store can be read with its key: replace the key "
            "(WEAVER_AUDIT_STORE_KEY) to end them\n"
        )
