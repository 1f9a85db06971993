"""What a client of the name directory checks, as the programs' code does it: see
``tests.support.vector_code``."""

from typing import Any

from cbfs_common.errors import DecodeError
from cbfs_common.names.changes import HistoryLink, apply_register, read_link
from cbfs_common.names.checks import (
    Absent,
    check_feed,
    check_lookup,
    check_newest,
    check_succession,
    decode_state,
    is_current,
    open_bundle,
)
from cbfs_common.names.config import config_of
from cbfs_common.names.entry import decode_entry
from cbfs_common.names.faults import BundleRefused, DirectoryLies, Fault, NameChanged, NameExpired
from cbfs_common.names.feed import FeedRound, decode_tile, tile_of
from cbfs_common.names.layout import Fields
from cbfs_common.names.operations import OperationKind, OperationRefused, decode_operation
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.wire import HeadIs, LookedUp, decode_reply
from cbfs_common.profile import Address
from tests.support.names_naive import make_policy
from tests.support.vector_sessions import Refused
from tests.support.vectors import Readers

Given = dict[str, Any]
HERE = Address(bytes(32), "localhost", 1)


def named(error: Exception) -> str:
    """The name of an error in the text; empty for one of others."""
    if isinstance(error, DirectoryLies):
        assert type(error) in {DirectoryLies, BundleRefused}
        return error.fault.name
    if isinstance(error, OperationRefused):
        return error.refusal.name
    if isinstance(error, NameExpired):
        return "expired"
    return "changed" if isinstance(error, NameChanged) else ""


def policy(policy: str) -> Given:
    found = parse_policy(policy)
    assert parse_policy(found.encode()) == found
    witnesses = [(name, key.public) for name, key in found.witnesses]
    told: Given = {"namespace": found.namespace, "directory": found.directory}
    told |= {"log_key": found.log.public, "config": found.config, "witnesses": witnesses}
    server = found.server
    return told | {"server_key": server.key, "host": server.host, "port": server.port}


def quorum(policy: str, signed: list[str]) -> Given:
    found = parse_policy(policy)
    weaker = found.degraded.satisfied(signed) if found.degraded else None
    return {"enough": found.satisfied(signed), "when_degraded": weaker}


def configuration(config: str) -> Given:
    found = config_of(config)
    assert found.encode() == config
    terms = found.terms
    told: Given = {"namespace": found.namespace, "hash": found.digest(), "short": terms.short}
    told |= {"registration": str(terms.registration), "work": terms.work}
    return told | {"registrar": terms.registrar, "lifetime": terms.lifetime}


def _link(data: bytes) -> HistoryLink:
    fields = Fields(data, "a link")
    link = read_link(fields)
    fields.end()
    assert link.encode() == data
    return link


def step(directory: bytes, before: bytes, link: bytes) -> Given:
    after = _link(link).follow(decode_entry(before), directory)
    return {"after": after.encode()}


def registration(
    before: bytes | None, operation: bytes, round: int, time: int, lifetime: int
) -> Given:
    old = decode_entry(before) if before is not None else None
    asked = decode_operation(operation)
    assert asked.kind is OperationKind.REGISTER
    return {"after": apply_register(old, asked, round, time, lifetime).encode()}


def succession(directory: bytes, known: bytes, entry: bytes, links: list[bytes]) -> Given:
    policy = make_policy(HERE)
    if directory != policy.directory:  # a policy has a log's key, and a case its hash
        raise DirectoryLies(Fault.CHAIN)
    chain = tuple(_link(each) for each in links)
    check_succession(policy, decode_entry(known), decode_entry(entry), chain)
    return {}


def look_up(
    policy: str, state: bytes, person: str, known: bytes | None, now: int, data: bytes
) -> Given:
    reply = _reply(data)
    assert isinstance(reply, LookedUp)
    old = decode_entry(known) if known is not None else None
    rules, before = parse_policy(policy), decode_state(state)
    after, found = check_lookup(rules, before, reply.evidence, reply.links, person, old, now)
    told: Given = {"after": after.encode(), "found": None, "degraded": False}
    if isinstance(found, Absent):
        return told
    return told | {"found": found.entry.encode(), "degraded": found.degraded}


def _reply(data: bytes) -> Any:
    """What a client does with a reply that it cannot read."""
    try:
        return decode_reply(data)
    except DecodeError:
        raise Refused("MALFORMED") from None


def poll(policy: str, state: bytes, now: int, data: bytes, tiles: list[bytes]) -> Given:
    reply = _reply(data)
    assert isinstance(reply, HeadIs)
    before = decode_state(state)
    newest = check_newest(parse_policy(policy), before, reply, now)
    assert not newest.degraded
    after, changes = check_feed(before, newest, _rounds(before.feed.size, tiles))
    return {"after": after.encode(), "changed": sorted(changes.items())}


def _rounds(size: int, tiles: list[bytes]) -> tuple[FeedRound, ...]:
    try:
        several = [decode_tile(n, data) for n, data in enumerate(tiles, tile_of(size))]
    except DecodeError:
        raise Refused("FEED") from None
    return tuple(each for tile in several for each in tile)


def bundle(policy: str, bundle: bytes, known: bytes | None) -> Given:
    old = decode_entry(known) if known is not None else None
    shown = open_bundle(parse_policy(policy), bundle, old)
    return {"entry": shown.entry.encode(), "position": shown.head.encode()}


def current(policy: str, state: bytes, bundle: bytes, tiles: list[bytes]) -> Given:
    rules: Policy = parse_policy(policy)
    shown = open_bundle(rules, bundle)
    rounds = _rounds(shown.head.size, tiles)
    return {"current": is_current(rules, decode_state(state), shown, rounds)}


READERS: Readers = {
    ("names-policies", "policy"): policy,
    ("names-policies", "quorum"): quorum,
    ("names-policies", "configuration"): configuration,
    ("names-chains", "step"): step,
    ("names-chains", "registration"): registration,
    ("names-chains", "succession"): succession,
    ("names-lookups", "look-up"): look_up,
    ("names-lookups", "poll"): poll,
    ("names-bundles", "bundle"): bundle,
    ("names-bundles", "current"): current,
}
