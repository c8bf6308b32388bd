"""Archives: copied, proven, resumed, never replaced by less; and restored from."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.audit.archives.archived import ArchiveReport, ArchivingError, read_archived
from services.audit.archives.archiving import Archiver, ArchivingBusyError
from services.audit.archives.restoring import RestoreError, restore
from services.audit.archives.targets import (
    DirectoryTarget,
    Target,
    TargetError,
    TargetURLError,
    open_target,
)
from services.audit.checkpoint import parse_signed_checkpoint
from services.audit.history import History
from services.audit.integration import Integrator
from services.audit.keys.archive import KeyArchive, load_archive
from services.audit.keys.signatures import load_keys
from services.audit.keys.signers import Signer, load_ed25519, load_rsa
from services.audit.layout import Layout
from services.audit.merkle import RightEdge, leaf_hash
from services.audit.ports import Entry
from services.audit.record import Record, RecordId, encode
from services.audit.tiles import TileDirectory
from services.audit.verification.verifier import verify
from tests.fakes.auditlog import files_of, quick_keys

ORIGIN = "weaver.test/log"


class GrowingLog:
    """A log on disk that a test lets grow; a fork has other records from some index on."""

    def __init__(self, directory: Path, origin: str = ORIGIN) -> None:
        self.layout = Layout(directory / "log")
        for path in (self.layout.log, self.layout.private):
            path.mkdir(parents=True)
        rsa, ed25519 = quick_keys()
        signers = [
            Signer(origin, load_rsa(rsa.encode(), "test", production=False)),
            Signer(origin, load_ed25519(ed25519.encode(), "test")),
        ]
        keys = KeyArchive(origin)
        keys.use([signer.verifier for signer in signers], 1_700_000_000)
        keys.save(self.layout.keys)
        self._history = History(self.layout.history)
        self._integrator = Integrator(
            origin=origin,
            tiles=TileDirectory(self.layout.log, self.layout.private),
            checkpoint_path=self.layout.checkpoint,
            signers=lambda: signers,
            edge=RightEdge(),
            bundle=[],
        )

    def grow(self, size: int, fork: str = "") -> "GrowingLog":
        entries = [self._entry(n, fork) for n in range(self._integrator.size, size)]
        self._history.take(self._integrator.integrate(entries), size)
        self._history.flush()
        return self

    @staticmethod
    def _entry(number: int, fork: str) -> Entry:
        record_id = RecordId(1, "gateway-1", number + 1)
        record = Record(event_time="t", id=record_id, type="refusal", version=1, reason=fork)
        data = encode(record)
        return Entry(data, leaf_hash(data), record_id, None)


@pytest.fixture
def log(tmp_path: Path) -> GrowingLog:
    return GrowingLog(tmp_path / "source").grow(3).grow(600)


@pytest.fixture
def target(tmp_path: Path) -> DirectoryTarget:
    return DirectoryTarget(tmp_path / "archive")


def archive(log: GrowingLog, target: Target, **options: bool) -> ArchiveReport:
    return Archiver(log.layout, target, now=lambda: 1_700_000_000, **options).run(_no_progress)


def _no_progress(_done: int, _size: int) -> None:
    """Stand for nobody who looks."""


def check(directory: Path, pruned: int = 0) -> bool:
    """Say whether what lies in a directory verifies by itself."""
    layout = Layout(directory)
    return verify(directory, load_keys(layout.keys), pruned=pruned).good


def test_an_archive_is_verifiable_by_itself(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    report = archive(log, target)
    assert report.good
    assert (report.size, report.previous_size, report.present) == (600, 0, 0)
    assert check(tmp_path / "archive" / "log")
    own, copy = log.layout.log, tmp_path / "archive" / "log"
    for path in files_of(copy):
        assert path.read_bytes() == (own / path.relative_to(copy)).read_bytes()
    assert (tmp_path / "archive" / "archive.json").exists()
    assert not (tmp_path / "archive" / "unfinished").exists()


def test_the_next_archive_copies_only_what_is_new(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    archive(log, target)
    again = archive(log, target)
    assert again.copied <= 1  # The manifest, when its time moved on.
    log.grow(700)
    report = archive(log, target)
    assert report.previous_size == 600
    assert report.present == 5  # Two full bundles, two full tiles, and the tile above them.
    assert check(tmp_path / "archive" / "log")


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_536, 65_600])
def test_a_log_of_any_size_is_archived_and_restored(tmp_path: Path, size: int) -> None:
    log = GrowingLog(tmp_path / "source").grow(size)
    target = DirectoryTarget(tmp_path / "archive")
    assert archive(log, target).good
    restored = restore(target, tmp_path / "new" / "log", None, _no_progress)
    assert restored.report.good
    assert restored.report.size == size
    assert check(tmp_path / "new" / "log")


def test_what_the_service_needs_to_know_of_the_archive_is_written_down(
    log: GrowingLog, target: DirectoryTarget
) -> None:
    assert read_archived(log.layout) is None
    report = archive(log, target)
    known = read_archived(log.layout)
    assert known is not None
    assert (known.origin, known.size, known.target) == (ORIGIN, 600, target.name)
    assert known.time == report.time == "2023-11-14T22:13:20.000Z"


class Breaking:
    """A target that breaks off after so many writes."""

    at_once = 1

    def __init__(self, inner: DirectoryTarget, writes: int) -> None:
        self.name = inner.name
        self._inner = inner
        self._left = writes

    def read(self, path: str) -> bytes | None:
        return self._inner.read(path)

    def sizes(self, prefix: str) -> dict[str, int]:
        return self._inner.sizes(prefix)

    def write(self, path: str, data: bytes) -> None:
        if not self._left:
            msg = "the network is gone"
            raise TargetError(msg)
        self._left -= 1
        self._inner.write(path, data)


def test_an_archive_that_broke_off_anywhere_stays_good_and_is_resumed(
    log: GrowingLog, tmp_path: Path
) -> None:
    first = DirectoryTarget(tmp_path / "first")
    archive(log, first)
    log.grow(1_300)
    for writes in range(40):
        place = tmp_path / f"archive-{writes}"
        shutil.copytree(tmp_path / "first", place)
        inner = DirectoryTarget(place)
        try:
            archive(log, Breaking(inner, writes))
        except TargetError:
            assert check(place / "log"), writes
        else:
            break
        archive(log, inner)
        assert check(place / "log")
        signed = parse_signed_checkpoint((place / "log" / "checkpoint").read_bytes())
        assert signed.checkpoint.size == 1_300
    else:
        pytest.fail("the archive never ended")
    assert writes > 10


class Lying(Breaking):
    """A target that keeps something else than what it was given."""

    def __init__(self, inner: DirectoryTarget) -> None:
        super().__init__(inner, 10_000)

    def write(self, path: str, data: bytes) -> None:
        super().write(path, data[:-1] + b"?" if path.endswith("entries/001") else data)


def test_a_copy_that_does_not_read_back_is_no_archive(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    with pytest.raises(ArchivingError, match="does not read back"):
        archive(log, Lying(target))
    assert not (tmp_path / "archive" / "log" / "checkpoint").exists()
    assert read_archived(log.layout) is None


def test_an_archive_is_never_replaced_by_a_shorter_log(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    archive(log, target)
    shorter = GrowingLog(tmp_path / "shorter").grow(599)
    before = {path: path.read_bytes() for path in files_of(tmp_path / "archive")}
    with pytest.raises(ArchivingError, match="went back"):
        archive(shorter, target)
    assert {path: path.read_bytes() for path in files_of(tmp_path / "archive")} == before


@pytest.mark.parametrize("size", [600, 601, 5_000])
def test_an_archive_is_never_replaced_by_a_fork(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path, size: int
) -> None:
    archive(log, target)
    fork = GrowingLog(tmp_path / "fork").grow(599).grow(size, "fork")
    before = {path: path.read_bytes() for path in files_of(tmp_path / "archive")}
    with pytest.raises(ArchivingError, match="forked"):
        archive(fork, target)
    assert {path: path.read_bytes() for path in files_of(tmp_path / "archive")} == before


def test_an_archive_of_another_log_is_left_alone(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    archive(log, target)
    with pytest.raises(ArchivingError, match="name another place"):
        archive(GrowingLog(tmp_path / "other", "weaver.test/other").grow(700), target)


@pytest.mark.parametrize(
    "name", ["tile/entries/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2", "checkpoint"]
)
def test_a_damaged_log_is_not_archived(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path, name: str
) -> None:
    path = log.layout.log / name
    data = path.read_bytes()
    for damaged in (data[:40] + bytes([data[40] ^ 1]) + data[41:], data[:-1], b""):
        path.write_bytes(damaged)
        with pytest.raises(ArchivingError):
            archive(log, target)
    path.unlink()
    with pytest.raises(ArchivingError):
        archive(log, target)
    assert not (tmp_path / "archive" / "log" / "checkpoint").exists()


@pytest.mark.parametrize("name", ["log/tile/entries/001", "log/tile/0/000", "log/tile/0/002.p/88"])
def test_an_object_that_was_changed_in_the_archive_is_named_and_repaired_on_request(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path, name: str
) -> None:
    archive(log, target)
    path = tmp_path / "archive" / name
    data = path.read_bytes()
    path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    assert archive(log, target, full=True).damaged == [name]
    assert not check(tmp_path / "archive" / "log")
    assert archive(log, target, full=True, repair=True).repaired == [name]
    assert check(tmp_path / "archive" / "log")


def test_an_object_that_was_cut_or_lost_in_the_archive_is_noticed_at_once(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    archive(log, target)
    (tmp_path / "archive" / "log" / "tile" / "0" / "001").unlink()
    assert archive(log, target).healed == ["log/tile/0/001"]
    cut = tmp_path / "archive" / "log" / "tile" / "entries" / "000"
    cut.write_bytes(cut.read_bytes()[:-1])
    report = archive(log, target)
    assert report.damaged == ["log/tile/entries/000"]
    assert not report.good


def test_an_archive_keeps_the_checkpoints_that_the_log_forgot(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    archive(log, target)
    log.layout.history.unlink()
    log.grow(700)
    archive(log, target)
    lines = (tmp_path / "archive" / "log.private" / "checkpoints.jsonl").read_text().splitlines()
    sizes = [int(line.split("\\n")[1]) for line in lines]
    assert sizes == [3, 600, 700]


def test_of_the_many_checkpoints_that_a_log_remembers_an_archive_keeps_one_an_hour(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    for size in range(700, 8_001, 100):
        log.grow(size)
    archive(log, target)
    archive(log, target)
    lines = (tmp_path / "archive" / "log.private" / "checkpoints.jsonl").read_text().splitlines()
    assert [int(line.split("\\n")[1]) for line in lines] == [3, 3_700, 7_300, 8_000]
    assert check(tmp_path / "archive" / "log")


def test_keys_that_vanish_from_the_log_do_not_vanish_from_the_archive(
    log: GrowingLog, target: DirectoryTarget
) -> None:
    archive(log, target)
    keys = load_archive(log.layout.keys)
    keys.keys = keys.keys[1:]
    keys.save(log.layout.keys)
    with pytest.raises(ArchivingError, match="lacks keys"):
        archive(log.grow(700), target)


def test_two_at_once_do_not_archive_one_log(log: GrowingLog, target: DirectoryTarget) -> None:
    class Meeting(Breaking):
        """Meets another in the middle of it."""

        def sizes(self, prefix: str) -> dict[str, int]:
            with pytest.raises(ArchivingBusyError):
                archive(log, target)
            return super().sizes(prefix)

    assert archive(log, Meeting(target, 1_000)).good


def test_a_full_disk_is_said_and_leaves_no_half_object(
    log: GrowingLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("services.audit.archives.targets.os.fsync", full)
        with pytest.raises(TargetError, match="No space left"):
            archive(log, DirectoryTarget(tmp_path / "archive"))
    assert files_of(tmp_path / "archive") == []
    assert archive(log, DirectoryTarget(tmp_path / "archive")).good


def test_a_log_is_restored_with_what_held_it_to_its_past(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    archive(log, target)
    place = tmp_path / "new" / "log"
    restore(target, place, None, _no_progress)
    layout = Layout(place)
    assert layout.accepted.read_bytes() == layout.checkpoint.read_bytes()
    assert layout.history.read_bytes() == log.layout.history.read_bytes()
    assert layout.private.stat().st_mode & 0o777 == 0o700
    assert not place.with_name("log.restoring").exists()


def test_a_log_is_restored_only_where_there_is_none(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    archive(log, target)
    before = log.layout.checkpoint.read_bytes()
    with pytest.raises(RestoreError, match="there already"):
        restore(target, log.layout.log, None, _no_progress)
    assert log.layout.checkpoint.read_bytes() == before
    with pytest.raises(RestoreError, match="holds no archive"):
        restore(DirectoryTarget(tmp_path / "none"), tmp_path / "new" / "log", None, _no_progress)


@pytest.mark.parametrize(
    "name", ["log/tile/entries/001", "log/tile/0/000", "log/checkpoint", "log.keys"]
)
def test_nothing_is_restored_from_a_damaged_archive(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path, name: str
) -> None:
    archive(log, target)
    path = tmp_path / "archive" / name
    data = path.read_bytes()
    for damaged in (data[:60] + bytes([data[60] ^ 1]) + data[61:], None):
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        place = tmp_path / "new" / "log"
        with contextlib.suppress(RestoreError):
            assert not restore(target, place, None, _no_progress).report.good
        assert not place.exists()
        assert not place.with_name("log.restoring").exists()


def test_an_archive_that_somebody_else_signed_is_not_restored_for_whoever_knows_the_keys(
    log: GrowingLog, target: DirectoryTarget, tmp_path: Path
) -> None:
    archive(log, target)
    strange = tmp_path / "strange.vkey"
    strange.write_text(f"{Signer(ORIGIN, load_ed25519(_other_key(), 'test')).verifier}\n")
    place = tmp_path / "new" / "log"
    assert not restore(target, place, strange, _no_progress).report.good
    assert not place.exists()


def _other_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    from services.audit.keys.signers import private_pem  # noqa: PLC0415

    return private_pem(Ed25519PrivateKey.generate())


BAD_URLS: Sequence[tuple[str, dict[str, str]]] = [
    ("", {}),
    ("/srv/x", {}),
    ("file://", {}),
    ("file:///", {}),
    ("file://host/path", {}),
    ("s3://", {}),
    ("http://bucket/x", {}),
    ("s3://user:secret@bucket/x", {}),  # pragma: allowlist secret
    ("s3://bucket/x?versionId=1", {}),
    ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://s3.example:9000"}),
    ("s3://bucket/x", {"AWS_ENDPOINT_URL": "ftp://s3.example"}),
    ("s3://bucket/x", {"AWS_CA_BUNDLE": "/nowhere/ca.pem"}),
]


@pytest.mark.parametrize(("url", "environment"), BAD_URLS)
def test_a_target_that_is_none_is_refused(url: str, environment: dict[str, str]) -> None:
    with pytest.raises(TargetURLError) as refused:
        open_target(url, environment)
    assert "secret" not in str(refused.value)


def test_targets_are_named_by_urls(tmp_path: Path) -> None:
    assert open_target(f"file://{tmp_path}/with%20space", {}).name.endswith("with space")
    local = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a"}
    with pytest.raises(TargetURLError, match="s3://bucket/x"):
        open_target("s3://bucket/x", local)
    local["AWS_SECRET_ACCESS_KEY"] = "b"
    assert open_target("s3://bucket/some/prefix/", local).name == "s3://bucket/some/prefix"
