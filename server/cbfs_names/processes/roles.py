"""Sequencer and verifiers as processes of their own: what each of them runs."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.names.config import Config, ConfigFile, config_of
from cbfs_common.names.operations import Refusal
from cbfs_common.names.wire import RefusedReply, Submit, decode_request, encode_reply
from cbfs_common.primitives import Random, sign_public
from cbfs_common.profile import Address
from cbfs_host.logs import keep_going
from cbfs_host.meter import Counts
from cbfs_host.settings import Current
from cbfs_names.limits import DirectoryLimits
from cbfs_names.processes.following import Follower
from cbfs_names.processes.gossip import Peers, Recovery
from cbfs_names.processes.quorum import Quorum
from cbfs_names.processes.receipts import Receipts
from cbfs_names.rounds.sequencer import Sequencer
from cbfs_names.state.keys import ServerKeys
from cbfs_names.state.replay import config_now
from cbfs_names.state.round_log import Head
from cbfs_names.state.store import StateStore
from cbfs_names.state.timekeeping import Timekeeper
from cbfs_names.wire.peer_messages import decode, encode
from cbfs_names.wire.queries import Answers
from cbfs_names.wire.service import DirectoryService
from cbfs_names.wire.sockets import DeferredReply

_log = logging.getLogger(__name__)


class Role(Protocol):
    """What one process of the directory runs and answers. ``kind``: what it is."""

    kind: str

    @property
    def waiting(self) -> int:
        """How many operations wait for a round."""

    @property
    def clock_doubted(self) -> bool:
        """Whether no rounds are made, or signed, as this computer's clock has jumped."""

    def verifiers(self, now: int) -> Counts:
        """The verifiers that are known to be elsewhere, each with 1 if it has signed lately."""

    def answer(self, payload: bytes) -> bytes | DeferredReply:
        """The encoded reply to one encoded request, or what to wait on for it."""

    async def run(self) -> None:
        """Do the role's work until cancelled."""

    def close(self) -> None:
        """Let go of the store, after ``run`` has ended."""


def _warn(store: StateStore, given: Config) -> None:
    if present(store) != given:
        _log.warning("the configuration that was given is not the one in force")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A configuration file, and where the other processes are, which the file may say. ``current``:
    the operator's word that the store is no old copy. ``clock_is_right``: the operator's word on
    the clock, after it has jumped. ``limits``: what the operator has set."""

    file: ConfigFile
    sequencer: Address | None
    peers: tuple[Address, ...]
    current: bool
    clock_is_right: bool = False
    limits: Current[DirectoryLimits] = field(default_factory=lambda: Current(DirectoryLimits()))

    def others(self, sequencer: Address | None, own: str) -> Peers:
        """The addresses of all processes but the verifier ``own``."""
        named = {url: name for name, url in self.file.urls.items() if name != own}
        known = {*named, *self.peers} - {sequencer}
        found = tuple(address for address in known if address is not None)
        return Peers(sequencer, found, named, self.file.config, self.current)


class SequencerRole:
    """A sequencer whose verifiers are processes elsewhere."""

    kind = "sequencer"

    def __init__(
        self, store: StateStore, keys: ServerKeys, data: Path, place: Deployment, random: Random
    ) -> None:
        """Raises CbfsError when the configuration is for another key."""
        if sign_public(keys.log) != present(store).log.public:
            raise _not_named("log")
        _warn(store, place.file.config)
        sequencer = Sequencer(store, keys.log)
        recovery = Recovery(store, sequencer, place.others(None, ""), random)
        self._quorum = Quorum(store, sequencer, recovery.run, data)
        timekeeper = Timekeeper(store, is_right=place.clock_is_right)
        self._service = DirectoryService(
            store, self._quorum, time.time, timekeeper=timekeeper, limits=place.limits
        )
        self._quorum.on_head = self._service.publish
        self._quorum.on_receipted = self._service.take

    @property
    def waiting(self) -> int:
        """How many operations wait for a round."""
        return self._service.waiting

    @property
    def clock_doubted(self) -> bool:
        """Whether no rounds are made, as this computer's clock has jumped."""
        return self._service.clock_doubted

    def verifiers(self, now: int) -> Counts:
        """The verifiers of the configuration, each with 1 if it has signed lately."""
        return self._service.verifiers(now)

    def when_configured(self, told: Callable[[Config], None]) -> None:
        """Tell of configurations that come into force."""
        self._quorum.on_config = told

    def answer(self, payload: bytes) -> bytes | DeferredReply:
        """The encoded reply to a verifier or a client."""
        found = self._quorum.answer(payload)
        return self._service.answer(payload) if found is None else found

    async def run(self) -> None:
        """Make rounds, and count what verifiers sign, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_going, "counting votes", self._quorum.record, CbfsError)
            nursery.start_soon(self._service.run)

    def close(self) -> None:
        """Let go of the store, after ``run`` has ended."""
        self._service.close()


class VerifierRole:
    """A verifier. It answers look-ups as well, and operations with its receipt."""

    kind = "verifier"

    def __init__(
        self,
        store: StateStore,
        keys: ServerKeys,
        data: Path,
        place: Deployment,
        random: Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises CbfsError when the configuration does not name the key or no sequencer is
        known."""
        public = sign_public(keys.verifier)
        found = place.file.config.witness(public) or present(store).witness(public)
        if found is None:
            raise _not_named("witness")
        sequencer = place.sequencer or place.file.server
        if sequencer is None:
            raise CbfsError("no sequencer is known", "say --sequencer-url URL")
        _warn(store, place.file.config)
        peers = place.others(sequencer, found[0])
        self._store = store
        self._clock = clock
        self._answers: Answers | None = None
        self._timekeeper = Timekeeper(store, clock, is_right=place.clock_is_right)
        self._follower = Follower(
            store,
            keys.verifier,
            found[1],
            sequencer,
            peers,
            data,
            clock,
            random,
            self._timekeeper,
        )
        self._receipts = Receipts(
            store, self._follower.verifier, keys.verifier, sequencer, clock, random
        )
        self._follower.on_head = self._show
        head = self._follower.head()
        if head is not None:
            self._show(head)

    @property
    def waiting(self) -> int:
        """None: operations wait at the sequencer."""
        return 0

    @property
    def clock_doubted(self) -> bool:
        """Whether nothing is signed, as this computer's clock has jumped."""
        return self._timekeeper.doubted

    def verifiers(self, now: int) -> Counts:
        """None: the sequencer knows who has signed."""
        return ()

    def answer(self, payload: bytes) -> bytes | DeferredReply:
        """The encoded reply to another verifier or a client."""
        try:
            found = self._follower.answer(decode(payload))
        except DecodeError:
            found = None  # a client's
        if found is not None:
            return encode(found)
        try:
            request = decode_request(payload)
        except DecodeError:
            return encode_reply(RefusedReply(Refusal.BAD_REQUEST))
        if isinstance(request, Submit):
            return self._receipts.ask(request.operation)
        if self._answers is None:
            return encode_reply(RefusedReply(Refusal.NO_QUORUM))
        return encode_reply(self._answers.answer(request))

    async def run(self) -> None:
        """Follow the sequencer, and give receipts, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follower.run)
            nursery.start_soon(self._receipts.run)

    def close(self) -> None:
        """Let go of the store, after ``run`` has ended."""
        if self._answers is not None:
            self._answers.close()

    def _show(self, head: Head) -> None:
        if self._answers is None:
            self._answers = Answers(self._store, head, self._clock)
        self._answers.show(head)


def present(store: StateStore) -> Config:
    """The configuration in force for the next round."""
    with store.read() as view:
        return config_now(view)


def shown(store: StateStore) -> Config:
    """The configuration of the last round, which clients believe."""
    with store.read() as view:
        return config_of(view.config_text(max(view.size() - 1, 0)))


def _not_named(what: str) -> CbfsError:
    return CbfsError(
        f"the configuration has no {what} line for the key in --data",
        "print it with cbfs-names key and put it there",
    )
