"""Commitments are HMAC-SHA-256 under the record's key, whatever the length of a text."""

import hmac

import pytest

from services.gateway.events import Commitments


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1982, 1983, 1984, 2047, 2048, 100_000])
def test_a_commitment_is_the_hmac_of_its_text(size: int) -> None:
    text = bytes(range(256)) * (size // 256 + 1)
    commitments = Commitments()
    commitments.add("PROMPT_SENT", text[:size])
    ((_, value),) = commitments.values
    assert value == hmac.digest(commitments.key, text[:size], "sha256")
    assert len(commitments.key) == 32
