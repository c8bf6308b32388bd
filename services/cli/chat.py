"""`weaver chat`: one question through the front door, the answer as it is made."""

import json
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from services.cli import development, probe, rundir
from services.cli.settings import EdgeSettings
from services.common.settings import SettingsError, load

DATA = "data: "
END = "[DONE]"

app = typer.Typer()


class Refused(Exception):  # noqa: N818 - what happened, in the user's words
    """The front door refused the question, or its answer broke off."""


@app.command("chat")
def chat(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[str, typer.Option(help="Which model; default: WEAVER_MODEL_NAME.")] = "",
    url: Annotated[
        str, typer.Option(help="The front door; default: the one of `weaver up` here.")
    ] = "",
) -> None:
    """Ask a model one question and print its answer.

    The credential is WEAVER_API_KEY, a key or a token, or else the development key.
    """
    try:
        settings = load(EdgeSettings)
        credential = os.environ.get("WEAVER_API_KEY") or development.api_key(settings.state_dir)
        place = url or front(settings)
        context = trust(settings.tls_path / "ca.pem")
        name = model or os.environ.get("WEAVER_MODEL_NAME", "stub-model")
        for piece in ask(place, context, credential, name, question):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    except SettingsError as error:
        _fail(str(error), 2)
    except Refused as error:
        _fail(str(error), 1)
    except httpx.HTTPError as error:
        _fail(f"cannot reach {place}: {error}. Is `weaver up` running?", 1)


def ask(
    url: str, trust: ssl.SSLContext, credential: str, model: str, question: str
) -> Iterator[str]:
    """Yield the pieces of the answer.

    Raises:
        Refused: the answer is an error, or breaks off.
        httpx.HTTPError: the front door cannot be reached.
    """
    body = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": question}],
    }
    headers = {"authorization": f"Bearer {credential}"}
    with (
        httpx.Client(verify=trust, timeout=120, trust_env=False) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as reply,
    ):
        if reply.is_error:
            reply.read()
            raise Refused(said(reply))
        for line in reply.iter_lines():
            if not line.startswith(DATA):
                continue
            if line == DATA + END:
                return
            yield _piece(json.loads(line.removeprefix(DATA)))
    msg = "the answer broke off."
    raise Refused(msg)


def _piece(event: dict[str, Any]) -> str:
    if "error" in event:
        raise Refused(event["error"].get("message", "the answer broke off."))
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


def said(reply: httpx.Response) -> str:
    """Return what the front door said when it refused."""
    try:
        message = reply.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = reply.text[:500]
    return (
        f"{reply.status_code}: {message} (request {reply.headers.get('x-request-id', 'unknown')})"
    )


def front(settings: EdgeSettings) -> str:
    """Return the address of this machine's front door: as it is set, or as it was started."""
    listen = settings.front_listen
    if "front_listen" not in settings.model_fields_set:
        listen = rundir.listening(settings.state_dir).get("WEAVER_FRONT_LISTEN", listen)
    host, port = probe.reachable(listen, "WEAVER_FRONT_LISTEN")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def trust(ca: Path) -> ssl.SSLContext:
    """Return a context that also trusts this machine's own authority, if there is one."""
    context = ssl.create_default_context()
    if ca.exists():
        context.load_verify_locations(ca)
    return context


def _fail(message: str, status: int) -> None:
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(status)
