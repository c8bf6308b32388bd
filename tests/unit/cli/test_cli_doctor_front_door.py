"""What the doctor sees of the front door: everything for who may read it, the parts for others."""

import json
from collections.abc import Mapping

import pytest

from services.cli.doctor import serving
from services.cli.doctor.finding import Finding
from services.cli.doctor.surroundings import Answer, Surroundings

POLICIES = {"audit_on_failure": "deny"}
ADMIN = "of-an-administrator"


class Front(Surroundings):
    """A front door that says what a test wants.

    Args:
        public: what everybody is told at `/health`.
        whole: what administrators are told at `/v1/health`.
        credential: whose command this is; empty for nobody's.
    """

    def __init__(
        self, public: Mapping[str, object] | None, whole: Mapping[str, object], credential: str
    ) -> None:
        super().__init__("https://front.test", {}, None)
        self._public, self._whole, self._credential = public, whole, credential

    def credential(self, role: str = "auditor") -> str:
        if not self._credential:
            raise FileNotFoundError
        return self._credential if role == "admin" else ""

    def ask_front(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        if self._public is None:
            msg = "nobody listens"
            raise ConnectionError(msg)
        if path == "/health":
            return answer(self._public)
        assert path == "/v1/health"
        if dict(headers or {}) != {"authorization": f"Bearer {ADMIN}"}:
            return Answer(403, '{"error":{"code":"permission_denied"}}', "", b"")
        return answer(self._whole)


def answer(report: Mapping[str, object]) -> Answer:
    status = 503 if report["status"] == "unavailable" else 200
    return Answer(status, json.dumps(report), "", b"")


def report(status: str, *, policies: bool = False, **parts: str) -> Mapping[str, object]:
    dependencies = {name.replace("__", "."): state for name, state in parts.items()}
    said: dict[str, object] = {"status": status, "dependencies": dependencies}
    return {**said, "policies": POLICIES} if policies else said


PARTS = report("degraded", audit="ok", model="ok")
WHOLE = report("degraded", policies=True, audit="ok", model="ok", audit__key_rotation="down")


def found(front: Front) -> list[Finding]:
    return list(serving.front_door(front))


def test_an_administrator_learns_what_is_down_below_a_part() -> None:
    first, second = found(Front(PARTS, WHOLE, ADMIN))
    assert (first.state, second.state) == ("bad", "bad")
    assert second.what == "audit.key_rotation is down"
    assert second.page == "health.md"


@pytest.mark.parametrize("credential", ["", "of-an-auditor"])
def test_others_are_told_that_they_do_not_see_it(credential: str) -> None:
    first, second = found(Front(PARTS, WHOLE, credential))
    assert (first.state, second.state) == ("bad", "unknown")
    assert "WEAVER_API_KEY" in second.act


def test_where_everybody_is_told_everything_nobody_is_asked_for_a_key() -> None:
    first, second = found(Front(WHOLE, WHOLE, ""))
    assert (first.state, second.what) == ("bad", "audit.key_rotation is down")


@pytest.mark.parametrize("credential", ["", ADMIN])
def test_when_all_is_well_there_is_nothing_more_to_see(credential: str) -> None:
    well = report("ok", audit="ok", model="ok")
    (only,) = found(Front(well, report("ok", policies=True, audit="ok"), credential))
    assert only.state == "good"


def test_a_part_that_is_down_is_named_to_everybody() -> None:
    gone = report("unavailable", audit="down", model="ok")
    states = {finding.what: finding.state for finding in found(Front(gone, gone, ""))}
    assert states["audit is down"] == "bad"


@pytest.mark.parametrize("said", [{"status": "ok"}, {"status": "ok", "dependencies": 3}])
def test_an_answer_that_is_no_report_is_bad(said: Mapping[str, object]) -> None:
    (only,) = found(Front(said, WHOLE, ADMIN))
    assert (only.state, only.page) == ("bad", "alerts/ServiceDown.md")


def test_nobody_there_is_bad() -> None:
    (only,) = found(Front(None, WHOLE, ADMIN))
    assert "does not answer: nobody listens" in only.what


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("http://otel:4317", ("otel", 4317)),
        ("http://otel", ("otel", 80)),
        ("https://otel.example.com", ("otel.example.com", 443)),
    ],
)
def test_the_collector_is_looked_for_where_services_send_to(
    address: str, place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAVER_TELEMETRY_ENABLED", "true")
    monkeypatch.setenv("WEAVER_TELEMETRY_ENDPOINT", address)
    asked: list[tuple[str, int]] = []

    def refuse(where: tuple[str, int], timeout: float) -> None:
        assert timeout
        asked.append(where)
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", refuse)
    (only,) = serving.telemetry(Front(PARTS, WHOLE, ""))
    assert (only.state, asked) == ("warning", [place])
