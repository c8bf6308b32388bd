"""Other gateways at pinned versions, each in an environment of its own under `build/rivals/`.

They run as their own documentation starts them for production, over plain HTTP and with no more
than a check of one API key: what they would cost with limits, redaction and a durable audit trail
is not measured, because they cannot have all of it.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.subject import PACED, STREAM, UNARY, Subject, until_it_answers
from bench.suite import ROOT, free_ports

HOME = ROOT / "build" / "rivals"
LITELLM = "1.106.0"
PORTKEY = "1.15.2"
# With the newest one that npm finds for it, Portkey answers 500 to every stream: it adds to headers
# that are immutable then.
_NODE_SERVER = "1.14.0"
_PORTKEY_HOME = HOME / f"portkey-{PORTKEY}-{_NODE_SERVER}"
_MODELS = {UNARY: "bench", STREAM: "bench-stream", PACED: "bench-paced"}
_PATIENCE_S = 120.0


def install() -> None:
    """Install what is not installed yet.

    Raises:
        SystemExit: npm is missing, or a registry has not got it.
    """
    if shutil.which("npm") is None:
        sys.exit("bench: Portkey needs Node.js and npm: apt-get install nodejs npm.")
    litellm = HOME / f"litellm-{LITELLM}"
    if not (litellm / "done").exists():
        print(f"installing LiteLLM {LITELLM} into {litellm.relative_to(ROOT)} ...", flush=True)
        venv.create(litellm, with_pip=True, clear=True)
        python = str(litellm / "bin" / "python")
        _run([python, "-m", "pip", "install", "-q", f"litellm[proxy]=={LITELLM}"])
        (litellm / "done").touch()
    portkey = _PORTKEY_HOME
    if not (portkey / "done").exists():
        print(f"installing Portkey {PORTKEY} into {portkey.relative_to(ROOT)} ...", flush=True)
        portkey.mkdir(parents=True, exist_ok=True)
        package = {"private": True, "overrides": {"@hono/node-server": _NODE_SERVER}}
        (portkey / "package.json").write_text(json.dumps(package))
        _run(["npm", "install", "--silent", f"@portkey-ai/gateway@{PORTKEY}"], portkey)
        (portkey / "done").touch()


@contextlib.contextmanager
def litellm(workers: int, upstreams: Mapping[str, str]) -> Iterator[Subject]:
    """Run LiteLLM's proxy with so many workers.

    Args:
        workers: its processes.
        upstreams: the provider's base URL for each mode.
    """
    (port,) = free_ports(1)
    key = f"sk-{secrets.token_hex(8)}"
    models = [
        {
            "model_name": _MODELS[mode],
            "litellm_params": {
                "model": f"openai/{_MODELS[mode]}",
                "api_base": url,
                "api_key": "sk-bench",
            },
        }
        for mode, url in upstreams.items()
    ]
    config = HOME / f"litellm-{port}.yaml"  # JSON is YAML
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": key}}))
    command = [
        str(HOME / f"litellm-{LITELLM}" / "bin" / "litellm"),
        *("--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
        *("--num_workers", str(workers)),
    ]
    plural = "s" if workers > 1 else ""
    name = f"LiteLLM {LITELLM}, {workers} worker{plural}"
    environment = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    with _running(command, environment, HOME) as (process, began):
        subject = Subject(
            name,
            f"http://127.0.0.1:{port}",
            {"authorization": f"Bearer {key}"},
            _MODELS,
            lambda: dict.fromkeys(_family(process.pid), "litellm"),
        )
        subject.facts["start_s"] = until_it_answers(subject, began, _PATIENCE_S)
        yield subject


@contextlib.contextmanager
def portkey(upstreams: Mapping[str, str]) -> Iterator[Subject]:
    """Run Portkey's gateway; which provider is asked stands in a request's headers.

    Args:
        upstreams: the provider's base URL for each mode.
    """
    (port,) = free_ports(1)
    folder = _PORTKEY_HOME / "node_modules" / "@portkey-ai" / "gateway"
    command = ["node", "build/start-server.js", f"--port={port}", "--headless"]
    environment = {**os.environ, "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    with _running(command, environment, folder) as (process, began):
        headers = {"authorization": "Bearer sk-bench", "x-portkey-provider": "openai"}
        hosts = {mode: {"x-portkey-custom-host": url} for mode, url in upstreams.items()}
        subject = Subject(
            f"Portkey {PORTKEY}",
            f"http://127.0.0.1:{port}",
            headers,
            _MODELS,
            lambda: dict.fromkeys(_family(process.pid), "portkey"),
            more=hosts,
        )
        subject.facts["start_s"] = until_it_answers(subject, began, _PATIENCE_S)
        yield subject


@contextlib.contextmanager
def _running(
    command: list[str], environment: Mapping[str, str], folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    said = HOME / f"{Path(command[0]).name}.log"
    began = time.monotonic()
    with said.open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process, began
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)


def _family(pid: int) -> list[int]:
    """Return a process and all that came from it."""
    family = [pid]
    for member in family:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                family += [int(child) for child in children.read_text().split()]
    return family


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: {' '.join(command)} failed:\n{done.stderr[-2000:]}")
