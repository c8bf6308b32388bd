"""Managed keys: whose they are, when they are none any more, and what a store may not take back."""

import asyncio
import string
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument, NotFound, Unauthenticated, Unavailable
from services.gateway.apikeys import text
from services.gateway.apikeys.administration import Administration, Filter
from services.gateway.apikeys.cache import MOST_REFUSED, KeyCache
from services.gateway.apikeys.documents import document
from services.gateway.apikeys.follower import Follower
from services.gateway.apikeys.key import ApiKey, digest_of
from services.gateway.apikeys.order import Edit, NewKey
from services.gateway.apikeys.ports import KeysUnavailable, Written
from services.gateway.apikeys.seen import Seen
from services.gateway.authentication import APIKeys, Authenticator
from services.gateway.principal import OwnLimits, Principal
from tests.fakes.gateway import StillClock
from tests.fakes.keystore import KeyObserver, MemoryKeys

ORDER = NewKey("acme", "team search", ("user",), ("gpt-*",), OwnLimits(requests_per_second=2), 0)
LETTERS = string.digits + string.ascii_letters


class Gateway:
    """What one gateway knows of keys."""

    def __init__(
        self, store: MemoryKeys, clock: StillClock, most: int = 100, stale_s: float = 60
    ) -> None:
        self.store, self.clock = store, clock
        self.observer = KeyObserver()
        self.seen = Seen(most)
        self.cache = KeyCache(store, self.seen, self.observer, clock)
        self.follower = Follower(
            store, self.seen, self.cache, self.observer, clock, stale_after_s=stale_s
        )
        self.admin = Administration(store, self.seen, self.follower.give_back, clock)

    async def create(self, order: NewKey = ORDER) -> text.Made:
        made = text.make()
        await self.admin.create(made, order, "apikey:root")
        return made

    async def disable(self, id_: str) -> Written:
        return await self.admin.change(id_, lambda key, _: key.switched(disabled=True), "root")

    async def principal(self, key: str) -> Principal:
        digest = digest_of(key)
        return self.cache.known(digest) or await self.cache.find(key, digest)

    async def refusal(self, key: str) -> tuple[type[Exception], str]:
        with pytest.raises((Unauthenticated, Unavailable)) as caught:
            await self.principal(key)
        return caught.type, caught.value.reason


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def store() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
async def gateway(store: MemoryKeys, clock: StillClock) -> Gateway:
    return Gateway(store, clock)


@pytest.fixture
def other(store: MemoryKeys, clock: StillClock) -> Callable[..., Gateway]:
    return lambda **options: Gateway(store, clock, **options)


def _header(headers: dict[str, str], name: str) -> str:
    return headers.get(name, "")


def test_a_key_has_its_form_its_id_and_no_two_are_alike() -> None:
    made = {text.make().text for _ in range(200)}
    assert len(made) == 200
    for key in made:
        assert len(key) == text.LENGTH
        assert text.is_id(text.id_of(key))
    assert "wv_" not in repr(text.make())


@given(st.integers(0, text.LENGTH - 1), st.sampled_from(LETTERS))
def test_one_wrong_character_is_a_typo_and_no_forgery(at: int, letter: str) -> None:
    key = text.make().text
    typo = key[:at] + letter + key[at + 1 :]
    if typo != key and text.looks_managed(typo):
        with pytest.raises(text.MistypedKey):
            text.id_of(typo)


@given(st.text(max_size=80).map("wv_".__add__))
def test_no_text_breaks_the_reader_of_keys(anything: str) -> None:
    with pytest.raises(text.MistypedKey):
        text.id_of(anything)


async def test_a_typo_is_told_without_asking_the_store(gateway: Gateway, store: MemoryKeys) -> None:
    made = await gateway.create()
    for typo in (made.text[:-1], made.text + "x", made.text[:20] + "ab" + made.text[20:-2]):
        assert await gateway.refusal(typo) == (Unauthenticated, "MISTYPED_CREDENTIAL")
    with pytest.raises(Unauthenticated, match="53 characters, and a key has 54") as caught:
        await gateway.principal(made.text[:-1])
    assert made.text[:30] not in str(caught.value)
    assert store.asked == []


async def test_a_key_says_who_its_holder_is_and_what_it_grants(gateway: Gateway) -> None:
    made = await gateway.create()
    who = await gateway.principal(made.text)
    assert who == Principal("acme", "apikey", made.id, ("user",))
    assert who.grant is not None
    assert who.grant.limits == OwnLimits(requests_per_second=2)
    assert who.may_use("gpt-4o")
    assert not who.may_use("claude-3")


async def test_a_known_key_asks_nobody(gateway: Gateway, store: MemoryKeys) -> None:
    made = await gateway.create()
    first = await gateway.principal(made.text)
    store.up = False
    assert gateway.cache.known(digest_of(made.text)) is first
    assert len(store.asked) == 1


async def test_nothing_that_is_stored_or_shown_holds_the_key(
    gateway: Gateway, store: MemoryKeys
) -> None:
    made = await gateway.create()
    key = store.keys[made.id]
    secret = made.text.rpartition("_")[2]
    assert secret not in repr((key, document(key, 0.0), made))
    assert digest_of(made.text).hex() not in repr(document(key, 0.0))


async def test_forging_a_secret_for_an_id_is_refused_like_an_unknown_key(gateway: Gateway) -> None:
    made = await gateway.create()
    forged = text.make(made.id).text
    unknown = text.make().text
    assert await gateway.refusal(forged) == await gateway.refusal(unknown)
    assert gateway.observer.results == ["unknown", "unknown"]


async def test_a_refused_key_is_remembered_so_that_repeating_it_asks_nobody(
    gateway: Gateway, store: MemoryKeys, clock: StillClock
) -> None:
    forged = text.make().text
    for _ in range(50):
        await gateway.refusal(forged)
    assert len(store.asked) == 1
    clock.now += 31
    await gateway.refusal(forged)
    assert len(store.asked) == 2


async def test_guessing_in_bulk_rides_in_one_read_at_a_time(
    gateway: Gateway, store: MemoryKeys
) -> None:
    store.gate.clear()
    guesses = [text.make().text for _ in range(400)]
    waiting = [asyncio.ensure_future(gateway.refusal(guess)) for guess in guesses + guesses[:50]]
    await asyncio.sleep(0.01)
    assert len(store.asked) == 1
    store.gate.set()
    results = await asyncio.gather(*waiting)
    assert set(results) == {(Unauthenticated, "INVALID_CREDENTIAL")}
    assert len(store.asked) <= 3


async def test_more_guesses_than_can_wait_are_told_to_come_back_and_never_401(
    gateway: Gateway, store: MemoryKeys
) -> None:
    store.gate.clear()
    guesses = [text.make().text for _ in range(5_000)]
    waiting = [asyncio.ensure_future(gateway.refusal(guess)) for guess in guesses]
    await asyncio.sleep(0.2)
    store.gate.set()
    results = await asyncio.gather(*waiting)
    assert (Unavailable, "IDENTITY_UNAVAILABLE") in results
    assert len(gateway.cache._refused) <= MOST_REFUSED


async def test_what_is_remembered_stays_bounded(other: Callable[..., Gateway]) -> None:
    small = other(most=10)
    keys = [await small.create() for _ in range(40)]
    for made in keys:
        await small.principal(made.text)
    assert len(small.seen) == 10
    assert len(small.cache) <= 10
    assert (await small.principal(keys[0].text)).subject == keys[0].id


async def test_an_unknown_key_while_the_store_is_gone_is_503_and_never_401(
    gateway: Gateway, store: MemoryKeys
) -> None:
    made = await gateway.create()
    store.up = False
    assert await gateway.refusal(text.make().text) == (Unavailable, "IDENTITY_UNAVAILABLE")
    assert await gateway.refusal(text.make(made.id).text) == (Unavailable, "IDENTITY_UNAVAILABLE")


async def test_a_known_key_goes_on_without_the_store_for_the_stated_time(
    gateway: Gateway, store: MemoryKeys, clock: StillClock
) -> None:
    made = await gateway.create()
    await gateway.follower.look()
    await gateway.principal(made.text)
    store.up = False
    clock.now += 59
    await gateway.follower.look()
    assert (await gateway.principal(made.text)).subject == made.id
    clock.now += 2
    await gateway.follower.look()
    assert await gateway.refusal(made.text) == (Unavailable, "IDENTITY_UNAVAILABLE")
    store.up = True
    await gateway.follower.look()
    assert (await gateway.principal(made.text)).subject == made.id


async def test_a_key_that_is_known_to_be_disabled_stays_so_while_the_store_is_gone(
    gateway: Gateway, store: MemoryKeys
) -> None:
    made = await gateway.create()
    await gateway.disable(made.id)
    store.up = False
    assert await gateway.refusal(made.text) == (Unauthenticated, "DISABLED_CREDENTIAL")


async def test_a_revoked_key_is_refused_on_another_gateway_after_its_next_look(
    gateway: Gateway, other: Callable[..., Gateway]
) -> None:
    second = other()
    made = await gateway.create()
    await second.follower.look()
    await second.principal(made.text)
    await gateway.disable(made.id)
    await second.follower.look()
    assert await second.refusal(made.text) == (Unauthenticated, "DISABLED_CREDENTIAL")
    await gateway.admin.change(made.id, lambda key, _: key.switched(disabled=False), "root")
    await second.follower.look()
    assert (await second.principal(made.text)).subject == made.id


async def test_a_key_that_is_disabled_while_it_is_looked_up_stays_disabled(
    gateway: Gateway, other: Callable[..., Gateway], store: MemoryKeys
) -> None:
    """Promise: a key that was seen revoked is never accepted again, whatever was read before."""
    made = await gateway.create()
    second = other()
    disabled = store.keys[made.id].switched(disabled=True)
    read = store.read

    async def read_before_the_change(ids: Sequence[str]) -> list[ApiKey | KeysUnavailable | None]:
        found = await read(ids)
        # The change is seen after this answer, and before who waits for it goes on.
        asyncio.get_running_loop().call_soon(
            second.seen.put, msgspec.structs.replace(disabled, version=disabled.version + 1)
        )
        return found

    store.read = read_before_the_change  # type: ignore[method-assign] # a store that is slow
    assert await second.refusal(made.text) == (Unauthenticated, "DISABLED_CREDENTIAL")
    assert second.cache.known(digest_of(made.text)) is None


async def test_a_key_that_made_room_before_its_caller_went_on_is_not_kept_at_hand(
    gateway: Gateway, other: Callable[..., Gateway]
) -> None:
    keys = [await gateway.create() for _ in range(3)]
    second = other(most=2)
    await asyncio.gather(*(second.principal(key.text) for key in (*keys, keys[0])))
    await gateway.disable(keys[0].id)
    await second.follower.look()
    assert await second.refusal(keys[0].text) == (Unauthenticated, "DISABLED_CREDENTIAL")


async def test_secrets_of_one_key_make_room_for_one_another(
    gateway: Gateway, other: Callable[..., Gateway]
) -> None:
    made = await gateway.create()
    new = text.make(made.id)
    await gateway.admin.change(
        made.id, lambda key, now: key.rotated(new.text, overlap_s=60, now=now), "root"
    )
    second = other(most=1)
    for key in (made.text, new.text, made.text):
        assert (await second.principal(key)).subject == made.id
    assert len(second.cache) == 1


async def test_a_new_secret_is_accepted_at_once_where_the_old_one_was_known(
    gateway: Gateway, other: Callable[..., Gateway], clock: StillClock
) -> None:
    second = other()
    made = await gateway.create()
    await second.principal(made.text)
    new = text.make(made.id)
    await gateway.admin.change(
        made.id, lambda key, now: key.rotated(new.text, overlap_s=60, now=now), "root"
    )
    assert (await second.principal(new.text)).subject == made.id
    old = await second.principal(made.text)
    assert old.grant is not None
    assert old.grant.rotated
    clock.now += 61
    assert await second.refusal(made.text) == (Unauthenticated, "EXPIRED_CREDENTIAL")
    assert (await second.principal(new.text)).subject == made.id


async def test_a_key_ends_at_its_expiry_without_anybody_looking(
    gateway: Gateway, clock: StillClock
) -> None:
    made = await gateway.create(NewKey("acme", "o", ("user",), life_s=10))
    await gateway.principal(made.text)
    clock.now += 9.9
    await gateway.principal(made.text)
    clock.now += 0.2
    assert await gateway.refusal(made.text) == (Unauthenticated, "EXPIRED_CREDENTIAL")


async def test_rotating_too_often_within_the_overlap_is_refused(gateway: Gateway) -> None:
    made = await gateway.create()

    async def rotate(overlap_s: int) -> None:
        new = text.make(made.id).text
        await gateway.admin.change(
            made.id, lambda key, now: key.rotated(new, overlap_s=overlap_s, now=now), "root"
        )

    for _ in range(4):
        await rotate(60)
    with pytest.raises(InvalidArgument, match="still accepted"):
        await rotate(60)
    await rotate(0)
    assert len((await gateway.admin.get(made.id)).secrets) == 1


async def test_a_store_that_lost_a_revocation_cannot_bring_the_key_back(
    gateway: Gateway, store: MemoryKeys
) -> None:
    made = await gateway.create()
    await gateway.follower.look()
    before = store.snapshot()
    await gateway.disable(made.id)
    store.fall_back(before)
    assert not store.keys[made.id].disabled
    assert await gateway.refusal(made.text) == (Unauthenticated, "DISABLED_CREDENTIAL")
    await gateway.follower.look()
    assert store.keys[made.id].disabled
    assert gateway.observer.lost == [made.id]


async def test_what_a_store_lost_comes_back_from_a_gateway_that_only_saw_it_in_the_list(
    gateway: Gateway, other: Callable[..., Gateway], store: MemoryKeys
) -> None:
    second = other()
    made = await gateway.create()
    before = store.snapshot()
    await gateway.disable(made.id)
    await second.follower.look()
    store.fall_back(before)
    await second.follower.look()
    third = other()
    assert await third.refusal(made.text) == (Unauthenticated, "DISABLED_CREDENTIAL")


async def test_a_change_after_a_loss_is_made_on_top_of_what_was_lost(
    gateway: Gateway, store: MemoryKeys
) -> None:
    made = await gateway.create()
    before = store.snapshot()
    await gateway.disable(made.id)
    store.fall_back(before)
    new = text.make(made.id)
    written = await gateway.admin.change(
        made.id, lambda key, now: key.rotated(new.text, overlap_s=0, now=now), "root"
    )
    assert written.key.disabled


async def test_a_key_that_changed_and_was_forgotten_is_not_believed_in_an_older_version(
    other: Callable[..., Gateway], store: MemoryKeys
) -> None:
    small = other(most=1)
    made = await small.create()
    before = store.snapshot()
    await small.disable(made.id)
    await small.create()
    assert small.seen.key(made.id) is None
    store.fall_back(before)
    assert await small.refusal(made.text) == (Unavailable, "IDENTITY_UNAVAILABLE")


async def test_a_store_that_came_back_empty_is_given_what_is_remembered(
    gateway: Gateway, store: MemoryKeys
) -> None:
    made = await gateway.create()
    await gateway.follower.look()
    store.fall_back(({}, []))
    await gateway.follower.look()
    assert store.keys[made.id].version
    assert (await gateway.principal(made.text)).subject == made.id


async def test_changes_by_several_administrators_at_once_are_all_kept(
    gateway: Gateway, store: MemoryKeys
) -> None:
    made = await gateway.create()
    store.races = 2
    edit = Edit(owner="somebody else")
    written = await gateway.admin.change(made.id, edit.applied, "root")
    assert written.done
    assert store.keys[made.id].owner == "somebody else"
    store.races = 50
    with pytest.raises(Unavailable, match="Others change"):
        await gateway.admin.change(made.id, edit.applied, "root")


async def test_a_change_past_the_gateways_is_told_once(
    gateway: Gateway, other: Callable[..., Gateway], store: MemoryKeys, clock: StillClock
) -> None:
    second = other()
    outside = Administration(store, Seen(10), gateway.follower.give_back, clock, past_gateway=True)
    await outside.create(text.make(), ORDER, "user@host")
    store.claims_fail = 1
    for one in (gateway, second, gateway):
        await one.follower.look()
    told: list[ApiKey] = gateway.observer.elsewhere + second.observer.elsewhere
    assert [key.changed_by for key in told] == ["user@host"]


async def test_lists_are_filtered_and_come_in_pages(gateway: Gateway, clock: StillClock) -> None:
    keys = [await gateway.create(NewKey(f"t{n % 2}", "o", ("user",))) for n in range(9)]
    await gateway.disable(keys[2].id)
    first, more = await gateway.admin.page(Filter(), 0, 4)
    assert more == 4
    rest, end = await gateway.admin.page(Filter(), more, 10)
    assert end is None
    assert [key.id for key in first + rest] == [key.id for key in keys]
    some, more = await gateway.admin.page(Filter(tenant="t0", state="active"), 0, 2)
    assert [key.id for key in some] == [keys[0].id, keys[4].id]
    assert more is not None
    rest, end = await gateway.admin.page(Filter(tenant="t0", state="active"), more, 9)
    assert ([key.id for key in rest], end) == ([keys[6].id, keys[8].id], None)


async def test_a_key_that_is_not_there_is_not_found(gateway: Gateway) -> None:
    with pytest.raises(NotFound, match="no API key key_"):
        await gateway.disable(text.make().id)


async def test_administration_without_the_store_is_unavailable(
    gateway: Gateway, store: MemoryKeys
) -> None:
    made = await gateway.create()
    store.up = False
    for doing in (
        gateway.create(),
        gateway.disable(made.id),
        gateway.admin.page(Filter(), 0, 5),
    ):
        with pytest.raises(Unavailable, match="store of API keys"):
            await doing


async def test_keys_of_the_environment_and_managed_ones_stand_side_by_side(
    gateway: Gateway,
) -> None:
    made = await gateway.create()
    static = APIKeys(["of-the-environment"], tenant="t", roles=("user",))
    authenticator = Authenticator(static, None, gateway.cache)
    for name, key in (("authorization", "Bearer " + made.text), ("x-api-key", made.text)):
        who = await authenticator.authenticate(partial(_header, {name: key}))
        assert who.subject == made.id
    headers = {"x-api-key": "of-the-environment"}
    who = await authenticator.authenticate(lambda name: headers.get(name, ""))
    assert (who.tenant, who.grant) == ("t", None)
    with pytest.raises(Unauthenticated, match="not valid here"):
        await Authenticator(static, None).authenticate(lambda _: "Bearer " + made.text)
