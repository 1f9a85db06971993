"""A sequencer in the test's hand that proposes and tells whatever it is told to, signed as it
should be; and real verifiers, over real sockets, that it cannot deceive."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from cbfs_common.names.config import Config, ConfigFile, Terms
from cbfs_common.names.note import (
    COSIGNER_KEY,
    Checkpoint,
    NoteKey,
    SignedNote,
    cosign,
    parse_checkpoint,
    parse_note,
)
from cbfs_common.names.operations import Operation
from cbfs_common.names.policy import Group
from cbfs_common.names.wire import Request, encode_request
from cbfs_common.primitives import sign, sign_public
from cbfs_common.profile import Address
from cbfs_common.wire.transport import ServerSecret
from cbfs_host import listening
from cbfs_names.processes.roles import Deployment, VerifierRole
from cbfs_names.rounds.published import offered, page_of
from cbfs_names.rounds.sequencer import Sequencer
from cbfs_names.state.block import Block, SignedRefusal, decode_refusal, proposal_text
from cbfs_names.state.keys import ServerKeys
from cbfs_names.state.replay import Replay, config_now
from cbfs_names.state.round_log import RoundLog
from cbfs_names.state.store import StateStore
from cbfs_names.wire.peer_link import connected
from cbfs_names.wire.peer_messages import (
    Acknowledged,
    AskStatus,
    Await,
    Forward,
    GetBlock,
    Offer,
    PeerStatus,
    Reject,
    Vote,
    decode,
    encode,
)
from cbfs_names.wire.sockets import Answering, DeferredReply, serve
from tests.support.names_local import CONFIG, KEYS, NOW
from tests.support.names_server import seeded_random

PATIENCE = 120
RANDOM = seeded_random(b"panel")


def seed(name: str) -> bytes:
    """A verifier's."""
    return name.encode().ljust(32, b".")


def key(name: str) -> NoteKey:
    """A verifier's."""
    return NoteKey(name, COSIGNER_KEY, sign_public(seed(name)))


def quorum_of(*names: str, threshold: int, terms: Terms = CONFIG.terms) -> Config:
    """A configuration in which so many of these verifiers must sign."""
    witnesses = tuple((name, key(name)) for name in names)
    return Config(CONFIG.log, witnesses, (Group("all", threshold, names),), "all", terms)


@dataclass
class Proposer:
    """``vouchers``: verifiers whose keys it has, and signs heads with. ``heard``: what verifiers
    have signed, as (verifier, size, text); ``refused``: their refusals. ``head``: what it shows.
    ``twist`` changes what it offers, ``forced`` is offered whatever is asked. It tells a verifier
    that asks nothing of what that has signed."""

    store: StateStore
    vouchers: tuple[str, ...] = ()
    now: int = NOW
    head: bytes = b""
    block: Block | None = None
    votes: bytes = b""
    heard: list[SignedNote] = field(default_factory=list)
    refused: list[SignedRefusal] = field(default_factory=list)
    answered: list[tuple[int, bytes, int]] = field(default_factory=list)
    forwarded: list[bytes] = field(default_factory=list)
    twist: Callable[[Offer], Offer] = lambda offer: offer
    forced: Offer | None = None
    _awaiting: list[tuple[Await, DeferredReply]] = field(default_factory=list)
    _changed: trio.Event = field(default_factory=trio.Event)

    # what it says

    def make(self, *operations: Operation, rules: type[Replay] = Replay) -> Block:
        """The next block by these rules, signed. Nobody has it yet."""
        with self.store.read() as view:
            tip = view.tip()
            number = 0 if tip is None else tip.number + 1
            replay = rules(view, config_now(view), number, self.now)
            for operation in operations:
                replay.apply(operation.encode())
            change = replay.finish()
            return self.signed(Block(change.round, change.operations, b""))

    def signed(self, block: Block) -> Block:
        """With the log's signature over what it says."""
        return replace(block, signature=sign(KEYS.log, proposal_text(self.text(block))))

    def text(self, block: Block) -> bytes:
        """The checkpoint that a block makes."""
        with self.store.read() as view:
            root, _ = RoundLog(block.round.number, view.log_hash).append(block.round.digest())
        return Checkpoint(block.round.namespace, block.round.number + 1, root).encode()

    def propose(self, block: Block) -> None:
        """Offer a block."""
        self.block, self.votes = block, b""
        self.tell()

    def publish(self, block: Block) -> None:
        """With the signatures that it has heard and can make."""
        text = self.text(block)
        lines = {line.name: line for note in self.heard if note.text == text for line in note.lines}
        for name in self.vouchers:
            lines[name] = cosign(seed(name), name, self.now, text)
        note = Sequencer(self.store, KEYS.log).publish(block, tuple(lines.values()))
        self.head, self.block = note.encode(), None
        self.tell()

    async def round(self, *operations: Operation, signers: tuple[str, ...]) -> Block:
        """An honest round, signed by these verifiers and published."""
        block = self.make(*operations)
        self.propose(block)
        for name in signers:
            await self.until(lambda name=name: self.signed_by(name, block))  # type: ignore[misc]
        self.publish(block)
        return block

    def tell(self) -> None:
        """Answer who waits."""
        awaiting, self._awaiting = self._awaiting, []
        for asked, waiting in awaiting:
            waiting.settle(encode(self.twist(self.forced or self._offer(asked) or self._nothing())))

    # what it hears

    def signed_by(self, name: str, block: Block) -> bool:
        """Whether a verifier has signed what the block makes."""
        text = self.text(block)
        return any(
            note.text == text and any(line.name == name for line in note.lines)
            for note in self.heard
        )

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait for it."""
        with trio.fail_after(PATIENCE):
            while not happened():
                await self._changed.wait()

    def answer(self, payload: bytes) -> bytes | DeferredReply:
        """To a verifier."""
        found = self._answer(payload)
        self._changed.set()
        self._changed = trio.Event()
        return found

    def _answer(self, payload: bytes) -> bytes | DeferredReply:
        match message := decode(payload):
            case Await(size, seen, shown):
                self.answered.append((size, seen, shown))
                found = self.forced or self._offer(message)
                if found is not None:
                    return encode(self.twist(found))
                waiting = DeferredReply(encode(self._nothing()), PATIENCE)
                self._awaiting.append((message, waiting))
                return waiting
            case GetBlock(round_, page):
                return encode(page_of(self._encoded(round_), page))
            case Vote(note):
                self.heard.append(parse_note(note))
            case Reject(refusal):
                self.refused.append(decode_refusal(refusal)[0])
            case Forward(operation):
                self.forwarded.append(operation)
            case AskStatus():
                return encode(PeerStatus(self.head, b""))
        return encode(Acknowledged())

    def _encoded(self, round_: int) -> bytes:
        if self.block is not None and (self.forced or self.block.round.number == round_):
            return self.block.encode()
        with self.store.read() as view:
            return view.block(round_).encode()

    def _offer(self, asked: Await) -> Offer | None:
        with self.store.read() as view:
            found = offered(view, self.head, asked.size) if self.head else None
        if found is not None:
            return found
        block = self.block
        if block and asked.size == block.round.number and asked.seen != block.round.digest():
            return Offer(self.head, block.round.digest(), False, (), self.votes)
        return self._nothing() if self.head and asked.shown < self._size() else None

    def _size(self) -> int:
        return parse_checkpoint(parse_note(self.head).text.decode()).size

    def _nothing(self) -> Offer:
        return Offer(self.head, b"", False, (), b"")


@dataclass
class Place:
    """A socket that is there before and after who listens on it."""

    listener: socket.socket
    secret: ServerSecret

    @property
    def address(self) -> Address:
        return Address(self.secret.key, "127.0.0.1", listening.place_of([self.listener]).port)


@asynccontextmanager
async def place(name: str) -> AsyncIterator[Place]:
    with listening.listen(listening.Place("127.0.0.1", 0)) as listener:
        yield Place(listener, ServerSecret(name.encode().ljust(96, b",")))


@contextmanager
def stored(path: Path, config: Config) -> Iterator[StateStore]:
    store = StateStore(path, config.encode())
    try:
        yield store
    finally:
        store.close()


@asynccontextmanager
async def serving(at: Place, answers: Answering) -> AsyncIterator[None]:
    """Until the block ends."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, [at.listener], at.secret, RANDOM, answers)
        try:
            yield
        except Exception as error:  # the test's own, not to be wrapped in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def proposer(at: Place, store: StateStore, *vouchers: str) -> AsyncIterator[Proposer]:
    made = Proposer(store, vouchers)
    async with serving(at, made):
        yield made


@asynccontextmanager
async def verifier(
    path: Path,
    name: str,
    config: Config,
    at: Place,
    sequencer: Address,
    peers: dict[str, Address],
    clock: Callable[[], float] = lambda: NOW,
    first: Config | None = None,
    current: bool = False,
) -> AsyncIterator[VerifierRole]:
    """A real verifier with its files in ``path``. ``first``: the directory's first configuration,
    when it is another. ``current``: the operator's word that the store is no old copy."""
    await trio.Path(path).mkdir(exist_ok=True)
    keys = ServerKeys(at.secret, KEYS.log, seed(name))
    beside = Deployment(ConfigFile(config, sequencer, peers), None, (), current)
    failure: Exception | None = None
    with stored(path / "store", first or config) as store:
        role = VerifierRole(store, keys, path, beside, RANDOM, clock)
        try:
            async with serving(at, role), trio.open_nursery() as nursery:
                nursery.start_soon(role.run)
                try:
                    yield role
                except Exception as error:
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            role.close()
    if failure is not None:
        raise failure


async def ask(address: Address, request: Request) -> bytes:
    """A client's request to a server; the encoded reply."""
    async with connected(address, RANDOM) as link:
        return await link.raw(encode_request(request))
