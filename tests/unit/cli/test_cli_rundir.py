"""The run directory: one holder, private, short enough for sockets, empty at the end."""

import contextlib
import json
import os
import stat
from pathlib import Path

import pytest

from services.cli.chat import front
from services.cli.doctor.surroundings import Surroundings
from services.cli.rundir import LONGEST_SOCKET_PATH, BusyError, RunDirectory, listening
from services.cli.settings import EdgeSettings
from services.common.settings import load


def test_a_second_holder_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path).held(),
        pytest.raises(BusyError, match=rf"process {os.getpid()}\) already uses"),
        RunDirectory(tmp_path).held(),
    ):
        pass


def test_being_refused_leaves_the_holders_files_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.held():
        run.publish({"pid": 1})
        with pytest.raises(BusyError), RunDirectory(tmp_path).held():
            pass
        assert json.loads(run.status.read_text()) == {"pid": 1}


def test_others_learn_where_it_listens_while_it_runs(tmp_path: Path) -> None:
    addresses = {"WEAVER_FRONT_LISTEN": "127.0.0.1:21000"}
    run = RunDirectory(tmp_path)
    with run.held():
        run.publish({"pid": 1, "addresses": addresses})
        assert listening(tmp_path) == addresses
    assert listening(tmp_path) == {}


@pytest.mark.parametrize("status", ["", "[]", '{"pid": 1}', '{"addresses": 7}'])
def test_a_status_that_says_nothing_is_no_address(tmp_path: Path, status: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text(status)
    assert listening(tmp_path) == {}


@pytest.mark.parametrize(("set_to", "url"), [(None, "21000"), ("127.0.0.1:7", "7")])
def test_the_front_door_is_found_where_it_was_started_unless_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_to: str | None, url: str
) -> None:
    monkeypatch.delenv("WEAVER_FRONT_LISTEN", raising=False)
    monkeypatch.setenv("WEAVER_STATE_DIR", str(tmp_path))
    if set_to:
        monkeypatch.setenv("WEAVER_FRONT_LISTEN", set_to)
    run = RunDirectory(tmp_path)
    with run.held():
        run.publish({"addresses": {"WEAVER_FRONT_LISTEN": "127.0.0.1:21000"}})
        assert front(load(EdgeSettings)) == f"https://127.0.0.1:{url}"
        assert Surroundings("", {}, None).front == ("127.0.0.1", int(url))


def test_the_next_holder_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (run.path / "envoy").mkdir(parents=True)
    (run.path / "envoy" / "envoy.yaml").write_text("old")
    (run.path / "gateway.sock").write_text("old")
    with run.held():
        assert [path.name for path in run.path.iterdir()] == ["lock"]


def test_nothing_is_left_at_the_end_whatever_happened(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with contextlib.suppress(RuntimeError), run.held():
        (run.path / "gateway.sock").write_text("")
        raise RuntimeError
    assert [path.name for path in run.path.iterdir()] == ["lock"]
    assert (run.path / "lock").read_text() == ""


def test_it_is_private(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.held():
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
        assert run.sockets == run.path


def test_a_long_path_gets_a_short_private_directory_for_sockets(tmp_path: Path) -> None:
    state = tmp_path / ("x" * LONGEST_SOCKET_PATH)
    run = RunDirectory(state)
    with run.held():
        assert run.sockets != run.path
        assert len(str(run.sockets / "gateway.sock")) < LONGEST_SOCKET_PATH
        assert stat.S_IMODE(run.sockets.stat().st_mode) == 0o700
        assert RunDirectory(state).sockets == run.sockets
    assert not run.sockets.exists()


def test_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BusyError, match="belongs to somebody else"):
        RunDirectory(tmp_path / "state").held().__enter__()
