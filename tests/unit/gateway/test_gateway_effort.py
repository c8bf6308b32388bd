"""The work that one body may ask for is bounded, and nothing passes unsearched."""

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.personal_data_corpus import REGIONS, samples
from services.common.errors import Unavailable
from services.gateway import exchange
from services.gateway.effort import Effort, GivenUp, TooMuchToCheck
from services.gateway.personal_data import detector
from services.gateway.privacy import Action, Rules, actions
from services.gateway.redaction import Redactor

CORPUS = [sample.text for sample in samples(seed=5, each=20)]
FEW = Rules(actions(), most_checks=100)


def body(text: str) -> bytes:
    return json.dumps(
        {"messages": [{"role": "user", "content": text}]}, ensure_ascii=False
    ).encode()


DENSE = [
    "bob{}@example.com ",
    "+1650253{:04} ",
    "4111 1111 1111 1111, ",
    "1 ",
    "id number {:018} ",
    "ssn {:09} ",
    "\u200b1\u200b2",
    "\uff11\uff12\uff13",
    "DE{:020} ",
    "8.8.8.{} ",
]


@pytest.mark.parametrize("unit", DENSE)
@pytest.mark.parametrize("regions", [(), REGIONS])
def test_a_body_of_candidates_is_refused_and_never_passes_unsearched(
    unit: str, regions: tuple[str, ...]
) -> None:
    """Promise: the work of one request is bounded, with a sentence that says what to do."""
    text = "".join(unit.format(number) for number in range(4000))
    redactor = Redactor(Rules(actions(), (), detector(regions), 100))
    with pytest.raises(TooMuchToCheck, match="100 checks are allowed") as refused:
        redactor.prompt(body(text))
    assert refused.value.reason == "CONTENT_UNSEARCHABLE"
    assert Redactor(FEW).prompt(body(unit.format(1) * 3)) is not None


@pytest.mark.parametrize("unit", DENSE)
def test_each_body_has_its_own_effort(unit: str) -> None:
    redactor = Redactor(FEW)
    for _ in range(20):
        redactor.prompt(body(unit.format(1) * 10))
        redactor.answer(body(unit.format(1) * 10))


def test_what_is_passed_over_on_purpose_costs_nothing() -> None:
    text = "bob@example.com " * 1000
    sent = body(text)
    assert Redactor(Rules(actions(Action.PASS), most_checks=10)).prompt(sent) is sent


def test_an_answer_that_cannot_be_searched_is_withheld() -> None:
    with pytest.raises(Unavailable) as caught:
        Redactor(FEW).answer(body("".join(f"bob{n}@example.com " for n in range(200))))
    assert caught.value.reason == "PROVIDER_FAILED"
    assert "bob" not in caught.value.message


@settings(max_examples=100, derandomize=True)
@given(st.lists(st.sampled_from(CORPUS), min_size=2, max_size=6))
def test_what_is_remembered_of_a_candidate_is_what_its_check_says(texts: list[str]) -> None:
    raw = " ".join((*texts, *texts)).encode()
    found = detector(REGIONS).find
    assert list(found(raw, Effort(10_000))) == list(found(raw))


async def test_a_caller_who_leaves_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: nobody's processor works for a caller who has gone."""
    redactor = Redactor(Rules(actions(), most_checks=10**9))
    large = body("".join(f"user{number}@example.com " for number in range(200_000)))
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    seen: list[Any] = []

    def work(raw: bytes) -> bytes:
        try:
            return redactor.prompt(raw)
        except BaseException as error:
            seen.append(error)
            raise
        finally:
            loop.call_soon_threadsafe(ended.set)

    started = time.monotonic()
    task = asyncio.create_task(exchange._away(redactor, work, large))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended.wait()
    assert isinstance(seen[0], GivenUp)
    assert time.monotonic() - started < 2


def test_a_search_that_nobody_waits_for_does_not_begin() -> None:
    redactor = Redactor()
    redactor.stop()
    with pytest.raises(GivenUp):
        redactor.prompt(body("bob@example.com"))


@pytest.mark.parametrize(
    "unit", ["0 ", "(1) ", "01 23 ", "phone ", "tel 1 ", "0123 ", "1234 5678 ", "(0", "phone: 650 "]
)
def test_no_input_stalls_the_scan_for_national_numbers(unit: str) -> None:
    found = detector(REGIONS).find

    def seconds(size: int) -> float:
        raw = (unit * (size // len(unit) + 1)).encode()
        started = time.process_time()
        sum(1 for _ in found(raw))
        return time.process_time() - started

    seconds(2_000)
    small = min(seconds(4_000) for _ in range(3))
    assert min(seconds(32_000) for _ in range(2)) < small * 8 * 6 + 0.05
