"""Three accounts of one stranger take all the disk that they can get; then other programs take the
last byte of it."""

import os
import time

from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import CreateAccount, DeleteAccount, Deliver
from tests.server.attacks.honest import Found, address_of, beside, connected
from tests.server.test_server_disk import own_disk
from tests.support.disk import use_up
from tests.support.world import Service

DISK = "size=700m"
ACCOUNTS = 3
PHASE = 3.0
"""Seconds that the honest client goes on when the accounts are full, and when the disk is."""


def attack() -> bool:
    """Whether the honest client's mail came through, and the rest was refused with a reason."""
    good = True
    with own_disk(DISK) as disk:
        service = Service("cbfs-server", disk / "server")
        address = address_of(service)
        try:
            with beside(service) as filling:
                begun = time.monotonic()
                secrets, taken, said = _fill(address)
                print(f"disk: {taken} envelopes in {time.monotonic() - begun:.0f} s, then {said}")
                time.sleep(PHASE)
            good &= _judge("while it fills", filling)
            with beside(service) as full:
                other = use_up(disk)
                time.sleep(PHASE)
                gone = [connected(address, each).ask(DeleteAccount()) for each in secrets]
                print(f"disk: without a free byte, accounts deleted: {gone.count(Done())} of 3")
                good &= gone.count(Done()) == ACCOUNTS
                time.sleep(PHASE)
            good &= _judge("without a free byte", full)
            other.unlink()
            print(*(line for line in service.log().splitlines() if "room" in line), sep="\n")
        finally:
            service.close()
    return good


def _fill(address: Address) -> tuple[list[bytes], int, list[object]]:
    secrets, taken, said = [os.urandom(32) for _ in range(ACCOUNTS)], 0, []
    for secret in secrets:
        client = connected(address, secret)
        client.ask(CreateAccount())
        reply: object = Done()
        while reply == Done():
            reply = client.ask(Deliver(dh_public(secret), os.urandom(ENVELOPE_SIZE)))
            taken += reply == Done()
        said.append(reply)
    return secrets, taken, said


def _judge(when: str, found: Found) -> bool:
    print(f"disk, {when}: {found}")
    return bool(found.taken) and not found.failed and not found.undeleted
