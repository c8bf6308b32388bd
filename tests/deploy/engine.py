"""Containers for the trial: builds the images, starts the Compose file, and asks about what runs.

It uses a real engine, Podman, and keeps all it makes under /tmp/deploy. Where no registry can be
reached, the base image is made with debootstrap under the base image's name. Envoy and Valkey come
from their wheels.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = Path(os.environ.get("WEAVER_TRIAL_DIR", "/tmp/deploy/trial"))  # noqa: S108 - its own
BASE = "docker.io/library/python:3.12-slim"
PACKAGES = ("podman", "buildah", "debootstrap", "runc", "netavark", "aardvark-dns", "iptables")
TARGETS = ("gateway", "ratelimit", "model", "audit", "cli", "suite", "envoy", "valkey")
STARTED = (
    *("envoy-config", "envoy", "gateway", "ratelimit", "model", "audit", "provider"),
    *("redis", "redis-replica-1", "redis-replica-2"),
    *("redis-sentinel-1", "redis-sentinel-2", "redis-sentinel-3"),
)
PROJECT = "weavertrial"
PORT = 18463
KEPT = ROOT / "build" / "deploy-logs"
TAIL_LINES = "20000"
CONFIGURATION = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Engine:
    """Podman, with a configuration of its own."""

    def __init__(self) -> None:
        """Refuse, with what to do, where something is missing."""
        missing = [name for name in ("podman", "buildah", "runc") if shutil.which(name) is None]
        if missing or os.geteuid() != 0:
            sys.exit(f"make deploy-test needs root and: apt-get install {' '.join(PACKAGES)}")
        PLACE.mkdir(parents=True, exist_ok=True)
        configuration = PLACE / "containers.conf"
        configuration.write_text(CONFIGURATION)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}
        self.variables: dict[str, str] = {}

    def run(
        self, *command: str | Path, timeout_s: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and result.returncode:
            words = " ".join(map(str, command[:4]))
            sys.exit(f"{words} failed:\n{result.stdout[-2000:]}{result.stderr[-4000:]}")
        return result

    def build(self) -> None:
        """Build every image from the real Dockerfile."""
        self._base()
        command = ["buildah", "build", "--isolation", "chroot", "--format", "docker", "--layers"]
        command += ["--ulimit", "nofile=1024:1024", "--pull=never"]
        # The package index of this machine may have an authority of its own.
        command += ["-v", "/etc/ssl/certs:/etc/ssl/certs:ro"]
        command += ["-f", "deploy/docker/Dockerfile"]
        for target in TARGETS:
            name = f"localhost/weaver-ai/{target}:trial"
            self.run(*command, "--target", target, "-t", name, ".", timeout_s=900)

    def up(self, *arguments: str, services: Sequence[str] = STARTED) -> None:
        """Start services of the Compose file in the background."""
        self.compose("up", "-d", *arguments, *services)

    def compose(self, *arguments: str) -> str:
        """Run podman-compose with the trial's variables."""
        file = PLACE / "env"
        file.write_text("".join(f"{name}={value}\n" for name, value in self.variables.items()))
        command = [str(self._tool("podman-compose")), "-p", PROJECT, "--env-file", str(file)]
        command += ["-f", "deploy/compose/compose.yaml", "-f", "tests/deploy/compose.trial.yaml"]
        return self.run(*command, "--profile", "production", *arguments, timeout_s=400).stdout

    def down(self) -> None:
        """End everything that the trial started, and forget its volumes."""
        # Some wait for others, which Podman removes as well, unless one of them was just ending.
        tries = 100
        while (names := self.names()) and tries:
            self.run("podman", "rm", "-f", "-v", "--depend", "-t", "0", names[0], check=False)
            tries -= 1
        for kind in ("volume", "network"):
            listed = self.run("podman", kind, "ls", "-q", check=False).stdout.split()
            ours = [name for name in listed if name.startswith(PROJECT)]
            if ours:
                self.run("podman", kind, "rm", *ours)

    def names(self, service: str = "") -> list[str]:
        """Return the containers of the trial, of one service or of all."""
        listed = self.run("podman", "ps", "-a", "--format", "{{.Names}}").stdout.split()
        start = f"{PROJECT}_{service}_" if service else f"{PROJECT}_"
        return sorted(name for name in listed if name.startswith(start))

    def healthy(self, name: str) -> bool:
        """Run a container's own health check, as the engine does."""
        return not self.run("podman", "healthcheck", "run", name, check=False).returncode

    def until_healthy(self, name: str, within_s: float = 60) -> None:
        """Wait for a container's health, or end the trial."""
        end = time.monotonic() + within_s
        while not self.healthy(name):
            if time.monotonic() > end:
                sys.exit(f"{name} is not healthy:\n{self.logs(name)}")
            time.sleep(0.3)

    def replace(self, name: str) -> None:
        """Stop a container as an update does, and start it anew."""
        self.run("podman", "stop", "-t", "45", name)
        self.run("podman", "start", name)
        self.until_healthy(name)

    def execute(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""
        return self.run("podman", "exec", name, *command, check=False)

    def inspect(self, name: str) -> Mapping[str, object]:
        """Return what the engine knows of a container."""
        loaded: list[dict[str, object]] = json.loads(self.run("podman", "inspect", name).stdout)
        return loaded[0]

    def logs(self, name: str) -> str:
        """Return the last of what a container wrote."""
        result = self.run("podman", "logs", "--tail", "20", name, check=False)
        return result.stdout + result.stderr

    def keep_logs(self, of: str) -> Path:
        """Write what the containers wrote to files of their own, and return the folder.

        Teardown removes the containers with their logs, and why a call failed is said nowhere else.

        Args:
            of: what failed; names the folder.
        """
        folder = KEPT / re.sub(r"\W+", "-", of).strip("-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in self.names():
            kept = self.run("podman", "logs", "--tail", TAIL_LINES, name, check=False)
            (folder / f"{name}.log").write_text(kept.stdout + kept.stderr)
        return folder

    def _base(self) -> None:
        """Have the base image: from its registry, or made of Debian under its name."""
        if not self.run("podman", "image", "exists", BASE, check=False).returncode:
            return
        if not self.run("podman", "pull", "-q", BASE, check=False, timeout_s=60).returncode:
            return
        root = PLACE / "rootfs"
        shutil.rmtree(root, ignore_errors=True)
        packages = "--include=python3,python3-venv,ca-certificates"
        self.run("debootstrap", "--variant=minbase", packages, "bookworm", root, timeout_s=900)
        archive = PLACE / "rootfs.tar"
        self.run("tar", "-C", root, "-cf", archive, ".", timeout_s=300)
        self.run("podman", "import", archive, BASE, timeout_s=300)
        archive.unlink()
        shutil.rmtree(root)

    def _tool(self, name: str) -> Path:
        """Return a tool of the trial, which is installed apart from the project."""
        tools = PLACE / "tools"
        if not (tools / "bin" / name).exists():
            self.run(sys.executable, "-m", "venv", tools)
            self.run(tools / "bin" / "pip", "install", "-q", "podman-compose==1.6.0", timeout_s=300)
        return tools / "bin" / name
