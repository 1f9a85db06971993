"""Receipts of verifiers for an operation that the sequencer does not accept: each that gives one
brings the operation to the sequencer, and a minute later signs no round without it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from cbfs.network.dial import Dialer, DialError
from cbfs.network.link import open_link
from cbfs_common.errors import CbfsError, CryptoError, DecodeError, TransportError
from cbfs_common.names.operations import OperationRefused, Refusal, verify_receipt
from cbfs_common.names.policy import Policy
from cbfs_common.names.wire import Receipted, RefusedReply, Submit, decode_reply, encode_request
from cbfs_common.primitives import Random
from cbfs_common.profile import Address

ISOLATION_SIZE = 16


class OperationHeld(CbfsError):
    """So many verifiers have the operation that no round is made without it."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(
            "the name directory's sequencer does not accept the operation, but its verifiers"
            f" {', '.join(sorted(names))} vouch for it",
            "try again in two minutes",
        )


@dataclass(slots=True)
class VerifierReplies:
    """Names of verifiers: who has given a receipt, and who has refused, and why."""

    receipts: set[str] = field(default_factory=set)
    refusals: dict[Refusal, set[str]] = field(default_factory=dict)


async def hand_to_verifiers(
    dialer: Dialer, policy: Policy, operation: bytes, random: Random
) -> None:
    """Give the encoded operation to all verifiers whose addresses the policy has. Raises
    OperationHeld when so many have given receipts that the others are no quorum, and
    OperationRefused when so many agree why it cannot be carried out."""
    found = VerifierReplies()
    async with trio.open_nursery() as nursery:
        for name, address in policy.urls:
            nursery.start_soon(_ask, dialer, policy, name, address, operation, random, found)
    if _binds(policy, found.receipts):
        raise OperationHeld(found.receipts)
    for refusal, names in found.refusals.items():
        if _binds(policy, names):
            raise OperationRefused(refusal)


def _binds(policy: Policy, names: set[str]) -> bool:
    return not policy.satisfied({name for name, _ in policy.witnesses} - names)


async def _ask(
    dialer: Dialer,
    policy: Policy,
    name: str,
    address: Address,
    operation: bytes,
    random: Random,
    found: VerifierReplies,
) -> None:
    isolation = b"names:" + random.token(ISOLATION_SIZE)
    try:
        async with open_link(dialer, address, None, isolation, random) as link:
            reply = decode_reply(await link.call(encode_request(Submit(operation))))
        match reply:
            case Receipted(time, signature):
                key = dict(policy.witnesses)[name].public
                verify_receipt(key, policy.directory, operation, time, signature)
                found.receipts.add(name)
            case RefusedReply(refusal):
                found.refusals.setdefault(refusal, set()).add(name)
    except (DialError, TransportError, DecodeError, CryptoError):
        return  # as good as no answer
