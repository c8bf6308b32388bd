"""Telephone numbers without a country code: found where operators ask for it, and no others."""

import json
from pathlib import Path

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.personal_data import CHECKED, PRECISION, RECALL, measure, mistaken
from bench.personal_data_corpus import REGIONS, samples
from services.common.settings import SettingsError, load
from services.gateway import privacy
from services.gateway.personal_data import detector
from services.gateway.principal import Principal
from services.gateway.privacy import Action, PrivacyError, Rules, actions
from services.gateway.redaction import Redactor
from services.gateway.redaction_settings import RedactionSettings
from services.gateway.running_text import RunningText

SOMEBODY = Principal("t", "apikey", "s", ("user",))
CORPUS = [sample.text for sample in samples(seed=9, each=40, regional=True)]


def rules(*regions: str) -> Rules:
    return Rules(actions(Action.REDACT), detector=detector(regions))


def redacted(text: str, *regions: str) -> str:
    return Redactor(rules(*regions)).text(text)


def test_the_labelled_corpus_of_national_numbers_is_found_and_dates_and_amounts_are_not() -> None:
    """Promise: precision of 0.99 and recall of 0.98 for numbers in the forms of their regions."""
    table = measure(each=80, regional=True)
    for kind in CHECKED:
        assert table[kind]["precision"] >= PRECISION - 0.02, (kind, table[kind])
        assert table[kind]["recall"] >= RECALL, (kind, table[kind])


def test_sources_and_licences_hold_no_national_number() -> None:
    """Promise: no false positive in 10,000 lines of source code and prose."""
    assert mistaken(("PHONE",), REGIONS) == []


@pytest.mark.parametrize(
    "region",
    [
        "AT",
        "AU",
        "BE",
        "CH",
        "CN",
        "CZ",
        "DK",
        "ES",
        "FI",
        "GR",
        "HU",
        "IE",
        "JP",
        "KR",
        "MX",
        "NO",
    ],
)
@pytest.mark.parametrize(
    "kind", [phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE]
)
def test_a_regions_own_form_is_found(region: str, kind: int) -> None:
    number = phonenumbers.example_number_for_type(region, kind)
    assert number is not None
    text = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    assert redacted(f"call {text}, please", region) == "call [PHONE_1], please"
    assert redacted(f"call {text}, please") == f"call {text}, please"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(650) 253-0000 or 650.253.0000", "[PHONE_1] or [PHONE_1]"),
        ("(650)253-0000; 1-650-253-0000", "[PHONE_1]; [PHONE_2]"),
        ("020 7031 3000, 0207 031 3000, 02070313000", "[PHONE_1], [PHONE_1], [PHONE_1]"),
        ("030 / 90 18 20, (030) 901820, 030/901820-12", "[PHONE_1], [PHONE_1], [PHONE_2]"),
        ("0151 23456789 and 01512 3456789", "[PHONE_1] and [PHONE_1]"),
        ('{"phone": "6502530000"}', '{"phone": "[PHONE_1]"}'),
        ('{"mobile_number":6502530000}', '{"mobile_number":"[PHONE_1]"}'),
        ("phone number is 6502530000.", "phone number is [PHONE_1]."),
        ("Tel. 030901820", "Tel. [PHONE_1]"),
        ("call me at 6502530000", "call me at [PHONE_1]"),
        ("(650)\u00a0253\u20130000", "[PHONE_1]"),
        ("\uff0806\uff09", "\uff0806\uff09"),
        ("\uff16\uff15\uff10-253-0000", "[PHONE_1]"),
        ("650\u200b-253-00\u200d00", "[PHONE_1]"),
        ("tel 020\u00a07031\u20113000", "tel [PHONE_1]"),
        ("+1 650 253 0000 and 001 650 253 0000", "[PHONE_1] and [PHONE_2]"),
        ("card 4111 1111 1111 1111", "card [CARD_1]"),
    ],
)
def test_numbers_are_found_as_people_write_them(text: str, expected: str) -> None:
    assert redacted(text, "US", "GB", "DE") == expected


@pytest.mark.parametrize(
    "text",
    [
        "6502530000",
        "hotel 6502530000",
        "call_6502530000",
        '{"phone":null,"id":6502530000}',
        "order #650-253-0000",
        "A650-253-0000",
        "650-253-0000-1",
        "$650 253 0000",
        "65 02 53 00 00",
        "912 650 253 0000 12",
        "0123456789",
        "0000000000",
        "05.11.2026 and 11/05/2026 and 2026-11-05",
        "2001-2026",
        "0.301234567 and 3.14159265",
        "0700-1500",
        "1700000000 1700000001",
        "8171 0702 0733 7148 6271",
        "https://example.com/650-253-0000",
        "version 0.30.901820",
    ],
)
def test_what_only_has_digits_is_no_number(text: str) -> None:
    assert redacted(text, "US", "GB", "DE") == text


def test_an_amount_with_decimals_is_no_number_of_a_region_without_area_codes() -> None:
    assert redacted("912 345 678,50 or 912 345 678", "ES") == "912 345 678,50 or [PHONE_1]"


@pytest.mark.parametrize(
    "text",
    [
        "call 650-253-0000 or (030) 90 18 20",
        '{"phone": "6502530000"}',
        r"t\u00e9l: 6502530000",
        '"phone": "\u200b(603-18-2943) / ',
    ],
)
def test_a_number_split_anywhere_is_what_the_whole_is(text: str) -> None:
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            running = RunningText(Redactor(rules(*REGIONS)))
            parts = (text[:first], text[first:second], text[second:])
            said = "".join(map(running.feed, parts)) + running.finish()
            assert said == redacted(text, *REGIONS)


@settings(max_examples=150, derandomize=True)
@given(st.lists(st.sampled_from(CORPUS), min_size=1, max_size=3), st.data())
def test_any_stream_of_numbers_says_what_the_whole_says(
    parts: list[str], data: st.DataObject
) -> None:
    text = " ".join(parts)
    running = RunningText(Redactor(rules(*REGIONS)))
    out, rest = "", text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out, rest = out + running.feed(rest[:size]), rest[size:]
    assert out + running.finish() == redacted(text, *REGIONS)


def test_a_setting_names_the_regions_and_the_file_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    monkeypatch.setenv("WEAVER_PII_PHONE_REGIONS", "us,GB")
    chosen = load(RedactionSettings).pii_phone_regions
    body = json.dumps({"content": "650-253-0000, 030 901820"}).encode()
    for text, said in (
        (b"version: 1", b"[PHONE_1], 030 901820"),
        (b"version: 1\nphone_regions: [DE]", b"650-253-0000, [PHONE_1]"),
        (b"version: 1\nphone_regions: []", b"650-253-0000, 030 901820"),
    ):
        policy = privacy.parse(text, regions=chosen)
        assert said in Redactor(policy.rules(SOMEBODY)).prompt(body)
    monkeypatch.setenv("WEAVER_PII_PHONE_REGIONS", "US,UK")
    with pytest.raises(SettingsError, match=r"WEAVER_PII_PHONE_REGIONS.*'UK'"):
        load(RedactionSettings)
    with pytest.raises(PrivacyError, match="'XX'"):
        privacy.parse(b"version: 1\nphone_regions: [XX]")
