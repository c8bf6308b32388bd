"""`weaver audit witness`: a witness that an auditor runs on a machine of their own."""

import asyncio
import ipaddress
import json
import signal
import ssl
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.audit.witnesses.log_keys import KnownLogs, LogKeysError
from services.audit.witnesses.store import (
    FileWitnessStore,
    WitnessStoreError,
    load_or_make_cosigners,
)
from services.audit.witnesses.witness import Witness
from services.cli.audit.options import AsJSON, usage
from services.common.settings import SettingsError, split_address

app = typer.Typer()


@app.command("witness")
def witness_command(  # noqa: PLR0913, PLR0917 - each is an option
    logs: Annotated[
        list[str],
        typer.Option(
            "--log",
            help="A log to know: its verifier key, or a file with verifier keys, `log` lines of a "
            "policy, or a key archive (read again when it changes). Repeatable.",
        ),
    ],
    state: Annotated[
        Path, typer.Option(help="Keys and what was cosigned; never share or roll back.")
    ] = Path(".weaver-witness"),
    name: Annotated[
        str, typer.Option(help="The key name, for good. Default: witness.local/<this machine>.")
    ] = "",
    listen: Annotated[str, typer.Option(help="host:port.")] = "127.0.0.1:8098",
    tls_cert: Annotated[Path | None, typer.Option(help="The certificate chain, in PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, in PEM.")] = None,
    url: Annotated[
        str, typer.Option(help="Where logs reach the witness, for the policy lines.")
    ] = "",
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Run a witness: cosign checkpoints of known logs, as long as they only grow."""
    tls = _tls(tls_cert, tls_key)
    try:
        host, port = split_address(listen, "--listen")
        if tls is None and not _is_loopback(host):
            usage("--listen: beyond this machine a witness needs --tls-cert and --tls-key")
        store = FileWitnessStore(state)
        cosigners = load_or_make_cosigners(state, name)
        known = KnownLogs(logs, _say)
    except (SettingsError, WitnessStoreError, LogKeysError) as error:
        usage(str(error))
    witness = Witness(cosigners, known, store)
    reach = url or f"{'http' if tls is None else 'https'}://{listen}"
    lines = [
        f"witness {cosigner.verifier.name}{suffix} {cosigner.verifier} {reach}"
        for cosigner, suffix in zip(cosigners, ("", "/mldsa"), strict=True)
    ]

    def ready() -> None:
        if as_json:
            document = {
                "url": reach,
                "verifier_keys": [str(cosigner.verifier) for cosigner in cosigners],
                "policy_lines": lines,
                "logs": sorted(known()),
            }
            sys.stdout.write(json.dumps(document) + "\n")
        else:
            sys.stdout.write(f"witnessing {', '.join(sorted(known()))} at {reach}\n")
            sys.stdout.write("for the policy file, one of these lines and a quorum:\n")
            sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    async def run() -> None:
        from services.audit.witnesses.server import WitnessServer  # noqa: PLC0415 - slow to load

        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        end = await WitnessServer(witness, _say).start(host, port, tls)
        ready()
        await stopped.wait()
        await end()

    try:
        asyncio.run(run())
    except OSError as error:
        usage(f"--listen: {listen}: {error.strerror or error}")
    finally:
        store.close()


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        usage("--tls-cert and --tls-key belong together")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        usage(f"--tls-cert, --tls-key: {error}")
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(line: str) -> None:
    sys.stderr.write(f"weaver: {line}\n")
