"""Strangers at a name directory, beside somebody who registers names: COMMITs as fast as two
processes can pay for them; changes of many names as fast as they are answered; a full disk."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from typing import TypeAlias

import trio

from cbfs.names.directory import Directory
from cbfs.names.lookups import Lookups
from cbfs.network.dial import LoopbackDialer
from cbfs_common.errors import CbfsError
from cbfs_common.limits import COMMIT_ROUNDS_MAX
from cbfs_common.names.entry import Entry, decode_round
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import Operation, OperationKind, Refusal
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.registration import worked
from cbfs_common.names.wire import (
    AskHead,
    AskTerms,
    HeadIs,
    RefusedReply,
    Reply,
    Request,
    Submit,
    Submitted,
    TermsAre,
    decode_reply,
    encode_request,
)
from cbfs_common.primitives import Random, kem_encapsulate
from tests.bench.server import Client, on_disk
from tests.server.attacks.honest import Found, beside, connected, cpu
from tests.server.test_server_disk import own_disk
from tests.support.disk import use_up
from tests.support.names_server import Kept
from tests.support.world import Service

ATTACKERS = 2
SECONDS = 150.0
"""So long took what closed the registration for a day."""

NAMES = 10
"""Of each attacker, which it changes."""

PHASE = 5.0

STORE_MAX = 128 * 1024 * 1024
"""Bytes of the store after it: a burst, and some seconds of the pace."""

WORST = 60.0
"""Seconds that a registration may take beside it, with the work of the honest."""

Counts: TypeAlias = "Queue[tuple[int, int]]"

RANDOM = Random(os.urandom, kem_encapsulate)


def asked(client: Client, request: Request) -> Reply:
    client.send(encode_request(request))
    while not (replies := client.replies()):
        pass
    return decode_reply(replies[0])


def _commit_for_ever(policy: Policy, end: Event, out: Counts) -> None:
    client, taken, bits = connected(policy.server, os.urandom(32)), 0, 0
    while not end.is_set():
        head, terms = asked(client, AskHead()), asked(client, AskTerms(0))
        if not isinstance(head, HeadIs) or not isinstance(terms, TermsAre):
            raise AssertionError("refused")
        bits = terms.work
        last = decode_round(head.round).number + COMMIT_ROUNDS_MAX
        hidden = os.urandom(32)
        commit = Operation(OperationKind.COMMIT, policy.directory, "", 0, 0, ZERO, last, hidden)
        done = False
        while not done and not end.is_set():
            commit, done = worked(commit, bits, 1 << 14)
        said = asked(client, Submit(commit.encode()))
        taken += isinstance(said, Submitted)
        if said not in (RefusedReply(Refusal.WORK_NEEDED), RefusedReply(Refusal.TOO_MANY)) and not (
            isinstance(said, Submitted)
        ):
            raise AssertionError(said)
    out.put((taken, bits))


async def _register(policy: Policy, end: Event, found: Found) -> None:
    number = 0
    while not end.is_set():
        kept = Kept()
        lookups = Lookups(LoopbackDialer(), policy, kept.load, kept.save, time.time, RANDOM)
        begun, number = time.monotonic(), number + 1
        try:
            await Directory(lookups).register(f"honest-{number}", b"a profile", os.urandom(32))
        except CbfsError as error:
            found.failed[str(error)] += 1
        else:
            found.taken.append(time.monotonic() - begun)
        await trio.sleep(1.0)


async def _beside(policy: Policy, end: Event, found: Found, seconds: float = SECONDS) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_register, policy, end, found)
        await trio.sleep(seconds)
        end.set()


def commits() -> bool:
    """Whether registration stays open, and look-ups are quick, beside COMMITs without end."""
    with on_disk() as place:
        service = Service("cbfs-names", place / "names", ("--registration", "open"))
        policy = parse_policy((place / "names" / "policy").read_text())
        context = multiprocessing.get_context("spawn")
        end, out = context.Event(), context.Queue()
        arguments = (policy, end, out)
        attackers = [
            context.Process(target=_commit_for_ever, args=arguments) for _ in range(ATTACKERS)
        ]
        names = Found()
        try:
            before, begun = cpu(service.pid), time.monotonic()
            with beside(service) as found:
                for each in attackers:
                    each.start()
                trio.run(_beside, policy, end, names)
            got = [out.get() for _ in attackers]
            taken = cpu(service.pid) - before
        finally:
            end.set()
            for each in attackers:
                each.kill()
                each.join()
            service.close()
    print(
        f"commits: {sum(n for n, _ in got)} in {time.monotonic() - begun:.0f} s; then"
        f" {max(bits for _, bits in got)} bits are asked"
    )
    print(f"commits, look-ups: {found}; {taken:.1f} s of processor")
    print(f"commits, registrations: {names}")
    return bool(names.taken) and not names.failed and names.worst < WORST and not found.failed


def _change_for_ever(policy: Policy, number: int, end: Event, out: Counts) -> None:
    """Register NAMES and change them all, again and again."""
    owner, taken, refused = os.urandom(32), 0, 0
    names = [f"flood-{number}-{each}" for each in range(NAMES)]

    async def register() -> list[Entry]:
        kept = Kept()
        lookups = Lookups(LoopbackDialer(), policy, kept.load, kept.save, time.time, RANDOM)
        return [(await Directory(lookups).register(each, b"", owner)).entry for each in names]

    entries, client = trio.run(register), connected(policy.server, os.urandom(32))
    while not end.is_set():
        for at, entry in enumerate(entries):
            change = Operation(
                OperationKind.UPDATE,
                policy.directory,
                entry.name,
                entry.incarnation,
                entry.version + 1,
                entry.digest(),
                60_000,
                profile=os.urandom(1_024),
            ).signed((owner,))
            said = asked(client, Submit(change.encode()))
            if isinstance(said, Submitted):
                taken += 1
                profile = change.profile
                entries[at] = replace(
                    entry,
                    version=entry.version + 1,
                    round=said.round,
                    previous=entry.digest(),
                    profile=profile,
                )
            else:
                refused += 1
            if end.is_set():
                break
    out.put((taken, refused))


def updates() -> bool:
    """Whether the log grows slowly, and look-ups and registrations go on, beside changes of many
    names."""
    with on_disk() as place:
        service = Service("cbfs-names", place / "names")
        policy = parse_policy((place / "names" / "policy").read_text())
        context = multiprocessing.get_context("spawn")
        end, out = context.Event(), context.Queue()
        attackers = [
            context.Process(target=_change_for_ever, args=(policy, number, end, out))
            for number in range(ATTACKERS)
        ]
        names, store = Found(), place / "names" / "store" / "data.mdb"
        try:
            before = cpu(service.pid)
            with beside(service) as found:
                for each in attackers:
                    each.start()
                trio.run(_beside, policy, end, names)
            got = [out.get() for _ in attackers]
            taken = cpu(service.pid) - before
        finally:
            end.set()
            for each in attackers:
                each.kill()
                each.join()
            service.close()
        size = store.stat().st_size
    print(
        f"updates: {sum(n for n, _ in got)} of {ATTACKERS * NAMES} names taken,"
        f" {sum(n for _, n in got)} refused; the store has {size / 2**20:.1f} MiB"
    )
    print(f"updates, look-ups: {found}; {taken:.1f} s of processor")
    print(f"updates, registrations: {names}")
    good = bool(names.taken) and not names.failed and names.worst < WORST and not found.failed
    return good and size < STORE_MAX


def full() -> bool:
    """Whether look-ups go on on a full disk, and registrations when there is room again."""
    with own_disk("size=64m") as disk:
        service = Service("cbfs-names", disk / "names")
        policy = parse_policy((disk / "names" / "policy").read_text())
        names, end = Found(), multiprocessing.get_context("spawn").Event()
        try:
            with beside(service) as found:
                other = use_up(disk)
                time.sleep(PHASE)
                service.end(signal.SIGKILL)
                service.start()
                time.sleep(PHASE)
                other.unlink()
                trio.run(_beside, policy, end, names, PHASE)
        finally:
            service.close()
    print(f"full, look-ups: {found}")
    print(f"full, registrations after it: {names}")
    return bool(names.taken) and not names.failed and len(found.taken) > sum(found.failed.values())
