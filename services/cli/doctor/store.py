"""The store of limits and keys: durable, bounded, replicated, and what its sentinels say."""

from collections.abc import Iterator, Mapping

from services.cli.backup.settings import BackupSettings
from services.cli.backup.snapshot import Session, SnapshotError, session
from services.cli.backup.taking import store_address
from services.cli.doctor.finding import Finding, State
from services.cli.doctor.surroundings import TIMEOUT_S
from services.common.settings import SettingsError, load, split_address
from services.common.valkey import Address
from services.common.valkey_settings import address

_PAGE = "limits.md"
_FULL = 0.8
_REPLICAS = 2


def examine() -> Iterator[Finding]:
    """Look at the store that the REDIS_* variables name, and at its sentinels."""
    try:
        settings = load(BackupSettings)
        place = store_address()
        with session(place, timeout_s=TIMEOUT_S) as asking:
            yield Finding("store", "good", f"{place} answers")
            facts = _facts(asking)
    except SettingsError as error:
        yield Finding("store", "bad", str(error), "mend the variable", "configuration.md")
        return
    except SnapshotError as error:
        act = "start it; limits follow WEAVER_RATELIMIT_ON_STORE_FAILURE meanwhile"
        yield Finding("store", "bad", str(error), act, "alerts/RedisDown.md")
        return
    yield from _judged(facts, sentinels=bool(settings.redis_sentinels))
    places = [split_address(text, "REDIS_SENTINELS") for text in settings.redis_sentinels]
    tls = address(settings, client="weaver-doctor").tls
    password = settings.redis_sentinel_password.get_secret_value()
    for host, port in places:
        yield _sentinel(Address(host, port, password=password, tls=tls), settings, place)


def _judged(facts: Mapping[str, str], *, sentinels: bool) -> Iterator[Finding]:
    policy = facts.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        yield Finding("store", "good", "it evicts nothing (noeviction)")
    else:
        what = f"maxmemory-policy is {policy}: it may forget what was charged"
        yield Finding("store", "bad", what, "CONFIG SET maxmemory-policy noeviction", _PAGE)
    most, used = int(facts.get("maxmemory", "0")), int(facts.get("used_memory", "0"))
    if not most:
        yield Finding("store", "bad", "maxmemory is not set", "CONFIG SET maxmemory 2gb", _PAGE)
    else:
        share = used / most
        state: State = "warning" if share > _FULL else "good"
        act = "raise maxmemory and the memory behind it" if share > _FULL else ""
        page = "alerts/StoreMemoryHigh.md"
        yield Finding("store", state, f"{share:.0%} of its memory is used", act, page)
    if facts.get("aof_enabled") == "1":
        yield Finding("store", "good", "it writes an append-only file")
    else:
        what = "it writes no append-only file: a restart forgets every limit"
        yield Finding("store", "bad", what, "CONFIG SET appendonly yes", _PAGE)
    for field in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if facts.get(field, "ok") != "ok":
            what = f"{field} is {facts[field]}"
            yield Finding("store", "bad", what, "look at its disk: df -h", "alerts/RedisDown.md")
    role, replicas = facts.get("role", ""), int(facts.get("connected_slaves", "0"))
    if role != "master":
        what = f"it is a {role or 'stranger'}, which takes no writes"
        yield Finding("store", "bad", what, "name the master, or set REDIS_SENTINELS", _PAGE)
    elif sentinels and replicas < _REPLICAS:
        what = f"{replicas} replicas follow it; {_REPLICAS} should"
        page = "alerts/RedisReplicaMissing.md"
        yield Finding("store", "warning", what, "start the one that is missing", page)
    elif sentinels:
        yield Finding("store", "good", f"{replicas} replicas follow it")


def _sentinel(place: Address, settings: BackupSettings, master: Address) -> Finding:
    name = settings.redis_sentinel_master
    try:
        with session(place, timeout_s=TIMEOUT_S) as asking:
            said = asking.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
            asking.ask("SENTINEL", "CKQUORUM", name)
    except SnapshotError as error:
        act = "start it: without a majority of sentinels nothing fails over"
        return Finding("store", "bad", f"sentinel {place}: {error}", act, "alerts/RedisDown.md")
    if isinstance(said, list) and said == [master.host, str(master.port)]:
        return Finding("store", "good", f"sentinel {place} agrees, and there is a quorum")
    what = f"sentinel {place} names another master: {said}"
    return Finding("store", "bad", what, "wait for the failover to end", "alerts/RedisDown.md")


def _facts(asking: Session) -> dict[str, str]:
    found: dict[str, str] = {}
    for section in ("memory", "persistence", "replication"):
        text = str(asking.ask("INFO", section))
        pairs = (line.partition(":") for line in text.split("\r\n") if ":" in line)
        found.update({name: value for name, _, value in pairs})
    return found
