"""Verifiers' cosignatures as a sequencer gathers them: of the proposal that is being decided, and
of the newest head, which it shows with the newest ones.

A cosignature of a proposal is on the disk before it counts. Two of one verifier that contradict
each other are kept as evidence, and from then on no round is made.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.names.config import Config, config_of
from cbfs_common.names.equivocation import Equivocation
from cbfs_common.names.note import (
    SignatureLine,
    SignedNote,
    parse_checkpoint,
    parse_note,
    verify_cosignature,
)
from cbfs_common.names.operations import verify_receipt
from cbfs_names.limits import CALL_TIMEOUT, PRESENCE
from cbfs_names.processes.room import keep_trying
from cbfs_names.rounds.equivocation import compare, doubled, keep
from cbfs_names.rounds.verifier import stopped
from cbfs_names.state.block import Block, decode_refusal
from cbfs_names.state.replay import config_now
from cbfs_names.state.round_log import Head
from cbfs_names.state.store import StateStore
from cbfs_names.wire.peer_messages import Acknowledged, Forward, encode
from cbfs_names.wire.sockets import DeferredReply

_log = logging.getLogger(__name__)


class Votes:
    """The cosignatures of one sequencer's verifiers. ``changed`` is called when there are more
    cosignatures or refusals of the proposal, ``renewed`` when the head has newer cosignatures.
    ``config`` is in force for the next round, ``shown`` was for the head's; ``stopped``: there is
    evidence against a key of ``config``."""

    def __init__(
        self,
        store: StateStore,
        data: Path,
        changed: Callable[[], None],
        renewed: Callable[[], None],
    ) -> None:
        """``data``: where evidence is left."""
        self.head: Head | None = None
        self.block: Block | None = None
        self.config, self.stopped = _in_force(store)
        self.shown = self.config
        self._store = store
        self._data = data
        self._told_changed = changed
        self._told_renewed = renewed
        self._text = b""
        self._votes: dict[str, SignatureLine] = {}
        self._refusers: set[str] = set()
        self._present: dict[str, int] = {}
        self._lines: dict[str, SignatureLine] = {}
        self._arrived: list[tuple[SignedNote, dict[str, SignatureLine], DeferredReply]] = []
        self._arrival = trio.Event()

    # the proposal

    def open(self, block: Block, text: bytes) -> None:
        """``block`` is to be decided, which makes the checkpoint of this text. Who has signed it
        before a restart has signed it."""
        self.block, self._text, self._refusers = block, text, set()
        self._votes = {}
        with self._store.read() as view:
            for name, key in self.config.witnesses:
                vote = view.vote(key.public)
                if vote is not None and parse_note(vote).text == text:
                    self._votes[name] = parse_note(vote).lines[0]

    def drop(self) -> None:
        """Give the proposal up."""
        self.block = None

    @property
    def won(self) -> bool:
        """Whether a quorum has signed the proposal."""
        return self.config.satisfied(self._votes)

    @property
    def lost(self) -> bool:
        """Whether so many refuse it that no quorum can sign it any more."""
        everybody = {name for name, _ in self.config.witnesses}
        return not self.config.satisfied(everybody - self._refusers)

    def lines(self) -> dict[str, SignatureLine]:
        """The cosignatures of the proposal, by verifiers' names."""
        return dict(self._votes)

    def note(self) -> bytes:
        """The proposal's checkpoint with its cosignatures, encoded; empty before the first."""
        return SignedNote(self._text, tuple(self._votes.values())).encode() if self._votes else b""

    # the head

    def show(self, head: Head) -> None:
        """``head`` is the newest, as it was stored."""
        self.head = head
        self.config, self.stopped = _in_force(self._store)
        with self._store.read() as view:
            self.shown = config_of(view.config_text(head.number))
        self._lines = _known_lines(parse_note(head.note), self.shown)

    def publish(self, head: Head, lines: dict[str, SignatureLine]) -> bool:
        """The proposal has become the newest head, with these cosignatures; those that came
        meanwhile are added by ``refresh``. Whether its configuration is another than that of the
        head before."""
        late = {name: line for name, line in self._votes.items() if name not in lines}
        self.head, self.block, self._votes, self._lines = head, None, {}, lines | late
        before, self.shown = self.shown, self.config
        self.config, self.stopped = _in_force(self._store)
        return self.shown != before

    def refresh(self) -> None:
        """Put the newest cosignatures to the newest head. It is made of the head and not of the
        store, which may be a round ahead while one is being published."""
        if self.head is None:
            return
        note, log = parse_note(self.head.note), self.shown.log
        own = tuple(line for line in note.lines if (line.name, line.key_id) == (log.name, log.id))
        fresh = SignedNote(note.text, (*own, *self._lines.values()))
        self.head = replace(self.head, note=fresh.encode())
        self._told_renewed()

    # what verifiers say

    def present(self, now: int) -> Iterable[str]:
        """Verifiers whose last cosignature is not older than PRESENCE (seconds)."""
        return [name for name, seen in self._present.items() if now - seen <= PRESENCE]

    def take(self, encoded: bytes) -> bytes | DeferredReply:
        """A cosignature that a verifier sends; the reply. A proposal's is on the disk before it
        counts: a verifier that is restored from a copy learns it from here, also when the proposal
        is dropped meanwhile."""
        done = encode(Acknowledged())
        try:
            note = parse_note(encoded)
            parse_checkpoint(note.text.decode("ascii"))
        except (DecodeError, UnicodeDecodeError):
            return done
        found = _known_lines(note, self.config)
        fresh = {name: line for name, line in found.items() if name not in self._votes}
        if self.block is None or note.text != self._text or not fresh:
            self._count(note, found)
            return done
        waiting = DeferredReply(done, CALL_TIMEOUT)
        self._arrived.append((note, fresh, waiting))
        self._arrival.set()
        return waiting

    async def record(self) -> None:
        """Put cosignatures of proposals on the disk and then count them, until cancelled."""
        while True:
            await self._arrival.wait()
            self._arrival = trio.Event()
            arrived, self._arrived = self._arrived, []
            await keep_trying(partial(self._keep, [each[:2] for each in arrived]))
            for note, found, waiting in arrived:
                self._count(note, found)
                waiting.settle(encode(Acknowledged()))

    def refuse(self, encoded: bytes) -> None:
        """A signed refusal that a verifier sends; what is none of the proposal is left alone."""
        try:
            refusal, signature = decode_refusal(encoded)
        except DecodeError:
            return
        if self.block is None or refusal.leaf != self.block.round.digest():
            return
        for name, key in self.config.witnesses:
            try:
                refusal.verify(key.public, signature)
            except CryptoError:
                continue
            _log.warning("verifier %s refuses a round: %s", name, refusal.reason.name)
            self._refusers.add(name)
            self._told_changed()

    def receipted(self, message: Forward) -> bool:
        """Whether a verifier of the configuration has given this receipt."""
        for _, key in self.config.witnesses:
            try:
                verify_receipt(
                    key.public,
                    self.config.directory,
                    message.operation,
                    message.time,
                    message.signature,
                )
            except CryptoError:
                continue
            return True
        return False

    def _keep(self, arrived: list[tuple[SignedNote, dict[str, SignatureLine]]]) -> None:
        keys = dict(self.config.witnesses)
        with self._store.write() as writer:
            for note, found in arrived:
                for name, line in found.items():
                    writer.keep_vote(keys[name].public, SignedNote(note.text, (line,)).encode())

    def _count(self, note: SignedNote, found: dict[str, SignatureLine]) -> None:
        size = parse_checkpoint(note.text.decode("ascii")).size
        self._check_doubled(note, found)
        for name, line in found.items():
            self._present[name] = max(line.time, self._present.get(name, 0))
        if self.block is not None and note.text == self._text:
            _renew(self._votes, found)
            self._told_changed()
        elif self.head is not None and self.head.note.startswith(note.text + b"\n"):
            _renew(self._lines, _known_lines(note, self.shown))
            self.refresh()
        elif self.head is None or size > self.head.number + 1:
            if size:
                _log.warning("a verifier has a round that is not known here: %s", ", ".join(found))
        else:
            with self._store.read() as view:
                proven = compare(view, note)
            self._stop(proven)

    def _check_doubled(self, note: SignedNote, found: dict[str, SignatureLine]) -> None:
        """Has one of them signed another checkpoint of this size before?"""
        proven = []
        with self._store.read() as view:
            for name, key in self.config.witnesses:
                vote = view.vote(key.public) if name in found else None
                made = vote and doubled(key, parse_note(vote), note)
                if made:
                    proven.append(made)
        self._stop(proven)

    def _stop(self, found: list[Equivocation]) -> None:
        """For people to decide, when there is evidence."""
        if found:
            keep(self._store, self._data, found)
            self.config, self.stopped = _in_force(self._store)


def _in_force(store: StateStore) -> tuple[Config, bool]:
    """The configuration of the next round, and whether there is evidence against a key of it."""
    with store.read() as view:
        config = config_now(view)
        return config, stopped(view, config)


def _known_lines(note: SignedNote, config: Config) -> dict[str, SignatureLine]:
    """The lines of verifiers of a configuration that verify."""
    found = {}
    for line in note.lines:
        for name, key in config.witnesses:
            if (line.name, line.key_id) != (key.name, key.id):
                continue
            try:
                verify_cosignature(key, note.text, line.signature)
            except (CryptoError, DecodeError):
                continue
            found[name] = line
    return found


def _renew(lines: dict[str, SignatureLine], found: dict[str, SignatureLine]) -> None:
    """Put newer cosignatures in the place of older ones. Anybody can show old ones again, and they
    must not make a head look older than it is."""
    for name, line in found.items():
        if name not in lines or line.time > lines[name].time:
            lines[name] = line
