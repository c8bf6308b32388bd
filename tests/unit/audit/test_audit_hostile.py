"""A log's directory may be an attacker's: nothing in it hangs, leads away or fills the memory."""

import os
import tracemalloc
from pathlib import Path

import pytest

from services.audit.verification.inventory import Inventory, NotAFileError, read_regular
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from tests.fakes.biglog import checkpoint_of, keys_of, log_of


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_of(tmp_path, 600)


def check(log: Path) -> Report:
    return verify(log, keys_of())


def paths(report: Report) -> set[str | None]:
    return {f.path for f in report.findings if f.verdict == "integrity"}


@pytest.mark.parametrize("name", ["tile/0/001", "tile/entries/001", "tile/1/000.p/2", "checkpoint"])
@pytest.mark.parametrize("kind", ["pipe", "link", "link to a pipe", "loop", "directory", "device"])
def test_what_is_no_plain_file_is_named_and_never_opened(
    log: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path = log / name
    data = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    report = check(log)
    assert not report.passed("integrity")
    assert name in paths(report)


def test_a_linked_directory_is_named(log: Path, tmp_path: Path) -> None:
    (log / "tile" / "0").rename(tmp_path / "elsewhere")
    (log / "tile" / "0").symlink_to(tmp_path / "elsewhere")
    assert "tile/0" in paths(check(log))


def test_directories_without_end_are_not_followed(log: Path) -> None:
    deep = log / "tile"
    for _ in range(60):
        deep /= "d"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"")
    report = check(log)
    assert not report.passed("integrity")
    assert len(report.findings) == 1


def test_a_thousand_strangers_are_enough(log: Path) -> None:
    for number in range(1_500):
        (log / f"stranger-{number}").touch()
    assert len(Inventory(log).strangers) == 1_000
    assert not check(log).good


@pytest.mark.parametrize(
    "name", ["tile/0/001", "tile/1/000.p/2", "tile/entries/001", "tile/0/002.p/88", "checkpoint"]
)
def test_a_huge_file_is_named_and_not_read(log: Path, name: str) -> None:
    with (log / name).open("r+b") as file:
        file.truncate(20 << 30)
    tracemalloc.start()
    report = check(log)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert name in paths(report)
    assert peak < 120 << 20


def test_a_bundle_of_empty_records_without_end_is_cut_off(log: Path) -> None:
    (log / "tile" / "entries" / "001").write_bytes(bytes(10_000_000))
    tracemalloc.start()
    report = check(log)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "tile/entries/001" in paths(report)
    assert peak < 60 << 20


def test_numbers_far_beyond_the_log_are_named(log: Path) -> None:
    far = log / "tile" / "0" / "x999" / "x999"
    far.mkdir(parents=True)
    (far / "999").write_bytes(bytes(8_192))
    assert paths(check(log)) == {"tile/0/x999/x999/999"}


def test_an_unknown_size_in_a_checkpoint_takes_no_time(log: Path) -> None:
    text = (log / "checkpoint").read_text()
    (log / "checkpoint").write_text(text.replace("\n600\n", f"\n{10**18}\n"))
    report = check(log)
    assert not report.passed("signatures")
    assert not report.passed("integrity")


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAFileError):
        read_regular(tmp_path / "pipe", 10)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing", 10)
    (tmp_path / "file").write_bytes(b"x" * 20)
    assert len(read_regular(tmp_path / "file", 10)) == 11
    (tmp_path / "file").chmod(0)
    if os.geteuid():
        with pytest.raises(PermissionError):
            read_regular(tmp_path / "file", 10)


def test_a_checkpoint_of_another_log_is_not_continued(log: Path, tmp_path: Path) -> None:
    kept = checkpoint_of(log)
    other = kept._replace(checkpoint=kept.checkpoint._replace(origin="weaver.test/other"))
    report = verify(log, keys_of(), since=other)
    assert "forked" in {f.kind for f in report.findings}


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    peaks = []
    for size in (5_000, 40_000):
        log = log_of(tmp_path / str(size), size)
        tracemalloc.start()
        assert check(log).good
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20)
