"""A log that is verified over HTTP, from a server that fails, cheats or goes away."""

import gzip
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from services.audit.archives.pruning import pruning_attributes
from services.audit.index import Filter
from services.audit.merkle import leaf_hash
from services.audit.ports import Entry
from services.audit.receipt import verify_receipt
from services.audit.record import Record, RecordId, encode
from services.audit.verification.mirroring import mirror
from services.audit.verification.offline import OfflineError, OfflineLog
from services.audit.verification.remote import RemoteLog
from services.audit.verification.remote_reading import RemoteTiles, ServiceLog
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from services.audit.verification.web import WebClient, WebError
from tests.fakes.biglog import (
    ORIGIN,
    checkpoint_of,
    entries,
    entry,
    keys_of,
    log_of,
    signer,
    write_log,
)


class Server(ThreadingHTTPServer):
    """Serves a directory as any static web server does, and fails as it is told."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.busy: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.answers: dict[str, bytes] = {}
        self.status: dict[str, int] = {}
        self.asked: list[str] = []
        self.credentials: set[str] = set()
        self.gzip = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    limits: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.path)
        server.credentials.add(self.headers.get("authorization", ""))
        if server.broken[self.path] > 0:
            server.broken[self.path] -= 1
            self.close_connection = True
            return
        if server.busy[self.path] > 0:
            server.busy[self.path] -= 1
            self._answer(429, b"slow down")
            return
        path = server.directory / self.path.lstrip("/")
        if self.path in server.status:
            self._answer(server.status[self.path], b"")
        elif self.path in server.answers:
            self._answer(200, server.answers[self.path])
        elif path.is_file():
            self._answer(200, path.read_bytes())
        else:
            self._answer(404, b"nothing here")

    def _answer(self, status: int, body: bytes) -> None:
        packed = self.server.gzip and status == 200
        body = gzip.compress(body) if packed else body
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
        if packed:
            self.send_header("content-encoding", "gzip")
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return log_of(tmp_path_factory.mktemp("remote"), 300, 1_500)


@pytest.fixture
def server(pristine: Path, tmp_path: Path) -> Iterator[Server]:
    shutil.copytree(pristine, tmp_path / "log")
    running = Server(tmp_path)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def check(server: Server, **options: Any) -> Report:
    log = RemoteLog(WebClient(f"{server.url}/log"))
    try:
        return verify(log, keys_of(), **options)
    finally:
        log.close()


def damage(report: Report) -> list[tuple[str, str | None]]:
    return [(f.kind, f.path) for f in report.findings if f.verdict == "integrity"]


def test_a_copy_on_a_web_server_verifies(server: Server) -> None:
    report = check(server)
    assert report.findings == []
    assert (report.size, report.good_records) == (1_500, 1_500)
    assert set(Counter(server.asked).values()) <= {1, 2}


def test_a_front_door_serves_the_log_below_its_own_path(server: Server) -> None:
    (server.directory / "v1").mkdir()
    (server.directory / "log").rename(server.directory / "v1" / "audit")
    log = RemoteLog(WebClient(server.url, credential="secret"))
    assert log.is_service
    assert verify(log, keys_of()).good
    log.close()
    assert server.credentials == {"Bearer secret"}


def test_a_compressed_copy_verifies(server: Server) -> None:
    server.gzip = True
    assert check(server).good


def test_what_fails_for_a_moment_is_tried_again(server: Server) -> None:
    server.busy["/log/tile/entries/002"] = 9
    server.broken["/log/tile/0/003"] = 2
    server.broken["/log/checkpoint"] = 1
    assert check(server).good


def test_what_keeps_failing_is_no_verdict(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.audit.verification.web._FIRST_PAUSE_S", 0.001)
    server.broken["/log/tile/0/003"] = 1_000
    with pytest.raises(WebError, match="tile/0/003"):
        check(server)


def test_a_refused_credential_is_no_verdict(server: Server) -> None:
    server.status["/log/checkpoint"] = 403
    with pytest.raises(WebError, match="role `auditor`"):
        check(server)


def test_a_partial_tile_that_is_gone_is_taken_from_the_full_one(
    server: Server, tmp_path: Path
) -> None:
    longer = log_of(tmp_path / "longer", 1_500, 1_600)
    for superseded in longer.glob("tile/*/005.p"):
        shutil.rmtree(superseded)
    shutil.copy(server.directory / "log" / "checkpoint", longer / "checkpoint")
    shutil.rmtree(server.directory / "log")
    longer.rename(server.directory / "log")
    report = check(server)
    assert report.findings == []
    assert (report.size, report.beyond) == (1_500, 36)


@pytest.mark.parametrize("name", ["tile/entries/002", "tile/0/002", "tile/1/000.p/5"])
def test_damage_on_a_server_is_named(server: Server, name: str) -> None:
    path = server.directory / "log" / name
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    report = check(server)
    assert damage(report) == [("changed", name)]
    path.unlink()
    report = check(server)
    assert damage(report) == [("missing", name)]


def test_an_endless_answer_is_cut_off_and_named(server: Server) -> None:
    for name, size in (("tile/0/002", 50_000_000), ("tile/entries/003", 50_000_000)):
        server.answers = {f"/log/{name}": bytes(size)}
        report = check(server)
        assert {path for _, path in damage(report)} == {name}
    server.gzip = True
    server.answers = {"/log/tile/0/002": bytes(200_000_000)}
    assert {path for _, path in damage(check(server))} == {"tile/0/002"}


def test_only_what_is_new_is_fetched_since_a_kept_checkpoint(
    server: Server, tmp_path: Path
) -> None:
    kept = checkpoint_of(log_of(tmp_path / "kept", 1_000))
    log = RemoteLog(WebClient(f"{server.url}/log"))
    monkey = pytest.MonkeyPatch()
    monkey.setattr("services.audit.verification.verifier.LOOK_BACK", 0)
    try:
        report = verify(log, keys_of(), since=kept)
    finally:
        monkey.undo()
        log.close()
    assert report.findings == []
    assert (report.since, report.checkpoints) == (1_000, 2)
    assert "/log/tile/entries/002" not in server.asked
    assert "/log/tile/entries/003" in server.asked


def test_a_server_that_forks_or_goes_back_is_found(server: Server, tmp_path: Path) -> None:
    forged = [[entry(i + 1, reason="forged" if i == 7 else "") for i in range(1_000)]]
    forked = checkpoint_of(write_log(tmp_path / "forked", forged))
    assert {f.kind for f in check(server, since=forked).findings} == {"forked"}
    newer = checkpoint_of(log_of(tmp_path / "newer", 2_000))
    assert {f.kind for f in check(server, history=[newer]).findings} == {"rolled back"}


@pytest.mark.parametrize(
    ("url", "credential", "message"),
    [
        ("ftp://log.example", "", "not an http"),
        ("http://log.example", "secret", "in the clear"),
        # pragma: allowlist nextline secret
        ("https://user:pw@log.example", "", "no query, fragment or credential"),
        ("https://log.example:x", "", "port"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, credential: str, message: str) -> None:
    with pytest.raises(WebError, match=message):
        WebClient(url, credential=credential)


def copy(server: Server, directory: Path) -> Report:
    log = RemoteLog(WebClient(f"{server.url}/log"))
    try:
        return mirror(log, directory, keys_of())
    finally:
        log.close()


def test_a_mirror_grows_with_the_log_and_verifies_by_itself(server: Server, tmp_path: Path) -> None:
    directory = tmp_path / "mirror"
    assert copy(server, directory).good
    assert verify(directory, keys_of()).good
    longer = log_of(tmp_path / "longer", 300, 1_500, 1_700)
    shutil.rmtree(server.directory / "log")
    longer.rename(server.directory / "log")
    server.asked.clear()
    report = copy(server, directory)
    assert (report.good, report.size, report.since) == (True, 1_700, 1_500)
    assert server.asked.count("/log/tile/entries/002") == 1, "looked at, and not copied again"
    report = verify(directory, keys_of())
    assert (report.findings, report.size) == ([], 1_700)
    assert not (tmp_path / "mirror.scratch").exists()


def test_a_mirror_does_not_follow_a_log_that_went_back_or_forked(
    server: Server, tmp_path: Path
) -> None:
    directory = tmp_path / "mirror"
    assert copy(server, directory).good
    forged = [[entry(i + 1, reason="forged" if i == 7 else "") for i in range(1_800)]]
    for other in (log_of(tmp_path / "short", 1_000), write_log(tmp_path / "forged", forged)):
        shutil.rmtree(server.directory / "log")
        other.rename(server.directory / "log")
        assert {f.kind for f in copy(server, directory).findings} & {"rolled back", "forked"}
        assert checkpoint_of(directory).checkpoint.size == 1_500


def test_a_mirror_of_a_log_with_a_hole_says_what_is_missing(server: Server, tmp_path: Path) -> None:
    (server.directory / "log" / "tile" / "entries" / "002").unlink()
    report = copy(server, tmp_path / "mirror")
    assert damage(report) == [("missing", "tile/entries/002")]
    assert not (tmp_path / "mirror").exists()


def test_records_and_receipts_are_read_from_a_copy(server: Server) -> None:
    log = RemoteLog(WebClient(f"{server.url}/log"))
    offline = OfflineLog(RemoteTiles(log))
    assert [index for index, _ in offline.find(Filter(), after=3)] == [2, 1, 0]
    receipt = offline.receipt(1_499)
    assert verify_receipt(receipt, offline.entry(1_499), keys_of().named(ORIGIN))
    (server.directory / "log" / "tile" / "entries" / "002").unlink()
    with pytest.raises(OfflineError, match="entries/002 is missing"):
        offline.entry(600)
    log.close()


def test_a_service_lists_by_its_index_and_hands_on_its_pages(server: Server) -> None:
    (server.directory / "v1").mkdir()
    (server.directory / "log").rename(server.directory / "v1" / "audit")
    entries = [b'{"index":%d,"record":%s}' % (i, entry(i + 1).data) for i in (7, 5, 3)]
    page = "/v1/audit/records?subject=ann&page_size=1000&type=refusal"
    server.answers[page] = b'{"records":[%s,%s],"next_page_token":"t"}' % tuple(entries[:2])
    following = page.replace("page_size=1000", "page_token=t&page_size=998")
    server.answers[following] = b'{"records":[%s]}' % entries[2]
    client = WebClient(server.url)
    log = RemoteLog(client)
    service = ServiceLog(log, client)
    wanted = Filter(subject="ann", types=("refusal",))
    assert [index for index, _ in service.find(wanted)] == [7, 5, 3]
    assert next(service.find(wanted))[1] == entry(8).data
    oldest = service.page(Filter(), limit=2, token="", ascending=True)
    assert [index for index, _ in oldest.records] == [0, 1]
    server.answers[page] = b"nonsense"
    with pytest.raises(OfflineError, match="cannot be read"):
        next(service.find(wanted))
    log.close()


def test_the_keys_of_a_server_are_read_and_damaged_ones_refused(server: Server) -> None:
    log = RemoteLog(WebClient(f"{server.url}/log"))
    with pytest.raises(WebError, match="no keys"):
        log.keys()
    listed = f'{{"verifier_key": "{signer().verifier}", "start_time": "2026-01-01T00:00:00Z"}}'
    server.answers["/log.keys"] = f'{{"origin": "{ORIGIN}", "keys": [{listed}]}}'.encode()
    assert log.keys().verifiers == [signer().verifier]
    server.answers["/log.keys"] = b"{}"
    with pytest.raises(WebError, match="keys"):
        log.keys()
    log.close()


def test_a_pruned_log_is_listed_and_mirrored_from_its_border_on(tmp_path: Path) -> None:
    attributes = pruning_attributes(512, "2026-01-02T00:00:00.000000Z", "")
    said = Record(
        id=RecordId(1, "audit-0", 1),
        version=1,
        type="administration",
        event_time="2026-01-02T00:00:00.000000Z",
        attributes=attributes,
    )
    data = encode(said)
    records = [*entries(0, 700), Entry(data, leaf_hash(data), said.id, None)]
    log = write_log(tmp_path, [records])
    for name in ("000", "001"):
        (log / "tile/entries" / name).unlink()
    running = Server(log)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    remote = RemoteLog(WebClient(running.url))
    try:
        offline = OfflineLog(RemoteTiles(remote))
        found = [index for index, _ in offline.find(Filter())]
        assert (found[0], found[-1]) == (700, 512)
        assert next(iter(offline.find(Filter(), ascending=True)))[0] == 512
        with pytest.raises(OfflineError, match="was pruned"):
            offline.entry(3)
        report = mirror(remote, tmp_path / "copy", keys_of())
        assert (report.findings, report.pruned) == ([], 512)
        assert not (tmp_path / "copy/tile/entries/000").exists()
        assert (tmp_path / "copy/tile/0/000").exists()
        again = mirror(remote, tmp_path / "copy", keys_of())
        assert again.findings == []
    finally:
        remote.close()
        running.shutdown()
        running.server_close()
        thread.join()
