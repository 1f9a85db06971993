"""What is saved in outbox/ of a mount on another machine: it waits in the spool of this machine,
on the disk, and is handed over to the hub, each file once.

Who renames, removes or describes a file that waits has it claimed, as has who hands it over: the
one waits for the other. Saving waits for nobody: what is newer gets another id, and names those
that it is in the place of. A file that was sent, and of which the hub has not said what became of
it, keeps its place and its id until that is known: where there is a link that is waited for, else
it is EBUSY.
"""

import errno
import logging
import math
import os
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final

import trio

from cbfs.mount.remote.contents import made_told, stat_told
from cbfs.mount.remote.hub_view import HubView, below
from cbfs.mount.remote.link import AwayError
from cbfs.mount.remote.nodes import Claim, RemoteNode, WaitingNode, is_here, local_stat, path_of
from cbfs.mount.remote.spool import OutgoingSpool, WaitingFile
from cbfs.mount.remote.wire import BEFORE_MAX, Stat, ids_in, is_ids
from cbfs.storage.faults import harmless
from cbfs.tree.rules import is_scratch
from cbfs_common.errors import CryptoError, DecodeError

WAIT_MAX: Final = 20.0
"""Seconds for which who changes a file waits until it is handed over that just is."""

RETRY: Final = 5.0
"""Seconds until it is tried again, where the hub has not answered in time."""

AGAIN: Final = 60.0
"""Seconds until it is tried again, where the hub has refused it for what may pass."""

PASSING: Final = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
        *(errno.EIO, errno.EBUSY, errno.EAGAIN, errno.EROFS),
    )
)
"""Reasons that may pass by themselves; others stay until the file is changed or moved."""

_WORDS: Final = {
    errno.ESTALE: "its conversation is not there any more: move it to another folder, or remove it",
}

CUT_OFF: Final = "it was cut off while it was written: save it anew, or remove it"

_log = logging.getLogger(__name__)


class Handing:
    """Hands over what waits in ``spool``. ``run`` it while there is a mount."""

    def __init__(self, view: HubView, spool: OutgoingSpool) -> None:
        self._view = view
        self._spool = spool
        self._waiting: dict[bytes, WaitingNode] = {}
        self._wake = trio.Event()
        self._claims: dict[RemoteNode, trio.Event] = {}
        self._tried = trio.Event()  # set, and made anew, after each attempt
        self._using = trio.Lock()  # the spool, and what is said of a file above

    @property
    def count(self) -> int:
        """How many files wait."""
        return len(self._waiting)

    def troubles(self) -> list[tuple[str, str]]:
        """(path, why) of what is not taken."""
        return [
            (os.fsdecode(each.item.path), each.node.trouble)
            for each in self._waiting.values()
            if each.node.trouble
        ]

    async def begin(self, waiting: list[WaitingFile]) -> None:
        """Show what waits from before. It may have been sent then."""
        past = {identity for each in waiting for identity in ids_in(each.before)}
        for item in waiting:
            if item.identity in past:  # that which came in its place is there
                with suppress(OSError):
                    await trio.to_thread.run_sync(self._spool.drop, item)
                continue
            node = self._node(item)
            node.outgoing = item
            tried = item.whole and not is_scratch(os.fsdecode(node.name))
            node.trouble = "" if item.whole else CUT_OFF
            self._waiting[item.identity] = WaitingNode(item, node, tried, tried, bool(item.before))

    def _node(self, item: WaitingFile) -> RemoteNode:
        """Where it is shown: with its conversation, whatever that is called by now. One that has no
        place is handed over all the same."""
        above, _, name = item.path.rpartition(b"/")
        tree, told = self._view.tree, local_stat(stat.S_IFREG | item.mode, item.size)
        here = tree.root
        for part in above.split(b"/"):
            found = here.entries.get(part)
            if item.conversation and tree.is_outbox(here):
                for each in here.entries.values():
                    if each.stat.conversation == item.conversation:
                        found = each
            if found is None:
                found = tree.make(here, part, local_stat(stat.S_IFDIR | 0o700))
            if not found.is_folder:
                return tree.detached(name, told)
            here = found
        there = here.entries.get(name)
        if there is None:
            return tree.make(here, name, told)
        if there.outgoing is not None or not stat.S_ISREG(there.stat.mode):
            return tree.detached(name, told)
        return there

    def wake(self) -> None:
        """There may be something to be handed over."""
        self._wake.set()

    def again(self) -> None:
        """There is a link again: what was refused is tried once more."""
        for each in self._waiting.values():
            each.refused = None
        self.wake()

    # what programs change

    async def save(self, node: RemoteNode, content: bytes, *, whole: bool = True) -> None:
        """Let the content of a file wait; it is on the disk on return. What is not ``whole`` is not
        handed over until it is. Raises OSError."""
        async with self._using:
            above = node.above
            if above is None or node.gone:
                raise OSError(errno.ESTALE, "")
            mode, size = stat.S_IMODE(node.stat.mode), len(content)
            known = self._of(node)
            if known is not None:
                item = replace(
                    known.item,
                    path=path_of(node),
                    mode=mode,
                    modified=node.timed,
                    size=size,
                    whole=whole,
                )
                await self._change(known, item, content)
            else:
                item = WaitingFile(
                    self._spool.new_id(),
                    path_of(node),
                    mode,
                    node.timed,
                    above.stat.conversation,
                    not node.local,
                    size,
                    node.ids,
                    whole,
                )
                await trio.to_thread.run_sync(self._spool.save, item, content, 0)
                self._waiting[item.identity] = WaitingNode(item, node)
                node.outgoing, node.trouble, node.before = item, "", b""
        self._view.link.hurry()

    async def read(self, item: WaitingFile) -> bytes:
        """The content of what waits. Raises OSError."""
        try:
            return (await trio.to_thread.run_sync(self._spool.read, item.identity))[1]
        except (CryptoError, DecodeError) as error:
            raise OSError(errno.EIO, "") from error

    async def rest(self, node: RemoteNode) -> bool:
        """Whether a file waits, and is not just being handed over: that is waited for. Raises
        OSError where it takes too long."""
        async with self._claimed(node) as known:
            return known is not None

    async def moved(self, node: RemoteNode, target: RemoteNode, name: bytes) -> bool:
        """Give a file that waits another place or name: in the place of what is there. False where
        it does not wait, and nothing is done. Raises OSError."""
        async with self._claimed(node, until_known=True, replacing=True) as known:
            if known is None:
                return False
            await self._taken_back(known)  # else both would be at the hub
            there = target.entries.get(name)
            if there is None:
                await self._move(known, target, name, None, replace(known.item, replaces=False))
                return True
            async with self._claimed(there, until_known=True) as other:
                if other is None:
                    replaces, before = not there.local, there.ids
                else:  # by its id it goes with the same rename of a file on the disk
                    replaces = other.item.replaces
                    before = other.item.identity + other.item.before
                item = replace(
                    known.item, replaces=replaces, before=_ids(before, known.item.before)
                )
                await self._move(known, target, name, other, item)
            return True

    async def _move(
        self,
        known: WaitingNode,
        target: RemoteNode,
        name: bytes,
        other: WaitingNode | None,
        item: WaitingFile,
    ) -> None:
        async with self._using:
            content = await self.read(known.item)
            told = target.stat.conversation
            item = replace(item, path=below(target, name), conversation=told)
            await self._change(known, item, content)
            self._view.tree.move(known.node, target, name)
            if other is not None:
                await self._forget(other)

    async def folder_moved(self, folder: RemoteNode, target: RemoteNode, name: bytes) -> None:
        """Give a folder that only this machine knows another place, and all that waits in it.
        Raises OSError, and then nothing has changed."""
        inside = self._in(folder)
        async with AsyncExitStack() as held:
            for each in inside:
                await held.enter_async_context(
                    self._claimed(each.node, until_known=True, replacing=True)
                )
            await held.enter_async_context(self._using)
            done: list[tuple[WaitingNode, WaitingFile, bytes]] = []
            if self._in(folder) != inside:  # one was saved, or handed over, meanwhile
                raise OSError(errno.EBUSY, "")
            try:
                for each in inside:
                    old, content = each.item, await self.read(each.item)
                    path = below(target, name) + b"/" + each.node.name
                    await self._change(each, replace(old, path=path), content)
                    done.append((each, old, content))
            except OSError:
                for each, old, content in done:
                    with suppress(OSError):
                        back = replace(each.item, path=old.path)
                        await self._change(each, back, content)
                raise
            self._view.tree.move(folder, target, name)

    def _in(self, folder: RemoteNode) -> list[WaitingNode]:
        return [each for each in self._waiting.values() if each.node.above is folder]

    async def described(self, node: RemoteNode, mode: int | None, modified: int | None) -> bool:
        """Give a file that waits another mode or time. False where it does not wait, and nothing is
        done. Raises OSError."""
        async with self._claimed(node, until_known=True) as known:
            if known is None:
                return False
            async with self._using:
                content = await self.read(known.item)
                item = replace(
                    known.item,
                    mode=known.item.mode if mode is None else mode,
                    modified=known.item.modified if modified is None else modified,
                )
                await self._change(known, item, content)
            return True

    @asynccontextmanager
    async def replaced(self, there: RemoteNode | None) -> AsyncIterator[tuple[bool, bytes]]:
        """While the block puts something in the place of a file: if that waits, it does no more at
        the end. Gives whether the hub has something there, and the ids of that. Raises OSError."""
        if there is None:
            yield False, b""
            return
        async with self._claimed(there, until_known=True) as known:
            if known is None:
                yield not there.local, there.ids
            else:
                yield known.item.replaces, known.item.before
            if known is not None:
                async with self._using:
                    await trio.to_thread.run_sync(self._spool.drop, known.item)
                    self._waiting.pop(known.item.identity, None)
                    there.outgoing = None

    async def dropped(self, node: RemoteNode) -> bool:
        """Take a file back that waits, and what it was to replace at the hub. False where it does
        not wait, and nothing is done. Raises OSError."""
        async with self._claimed(node, until_known=True) as known:
            if known is None:
                return False
            await self._taken_back(known)
            async with self._using:
                await trio.to_thread.run_sync(self._spool.drop, known.item)
                self._waiting.pop(known.item.identity, None)
                node.outgoing = None
                self._view.tree.remove(node)
            return True

    async def _taken_back(self, known: WaitingNode) -> None:
        """Remove what a file was to replace at the hub. Raises OSError."""
        # where its conversation is not there any more, another may have the name of its folder
        has_gone = known.refused is not None and known.refused[0] == errno.ESTALE
        if known.item.replaces and not has_gone:
            try:
                await self._remove_there(known.node, ids_in(known.item.before))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise

    async def _withdrawn(self, known: WaitingNode) -> bool:
        """The hub has refused it, and may have it by an earlier try, or what it is in the place of:
        then that is to be no draft any more, or it was sent. Whether it waits still. Raises
        OSError(EBUSY) where the hub does not say."""
        item, is_gone = known.item, False
        ids = [item.identity, *ids_in(item.before)]
        for at in range(0, len(ids), BEFORE_MAX):
            try:
                some = b"".join(ids[at : at + BEFORE_MAX])
                gone = await self._view.link.ask("withdraw", some)
            except OSError as error:
                raise OSError(errno.EBUSY, "") from error
            if not (isinstance(gone, bytes) and is_ids(gone)):
                raise OSError(errno.EBUSY, "")
            is_gone = is_gone or item.identity in ids_in(gone)
        known.earlier = False
        async with self._using:
            if known.item is item and is_gone:
                await self._taken(known, b"", None)
                return False
        return True

    async def _remove_there(self, node: RemoteNode, ids: list[bytes]) -> None:
        """Remove what the hub has at the place of a file, if that is the draft of one of these ids
        still. Raises OSError."""
        path, link = path_of(node), self._view.link
        if not ids or stat_told(await link.ask("stat", path)).conversation in ids:
            await link.ask("unlink", path)

    # claims

    def _of(self, node: RemoteNode) -> WaitingNode | None:
        return None if node.outgoing is None else self._waiting.get(node.outgoing.identity)

    @asynccontextmanager
    async def _claimed(
        self, node: RemoteNode, *, until_known: bool = False, replacing: bool = False
    ) -> AsyncIterator[WaitingNode | None]:
        """What waits of a node, which nobody hands over in the block. ``until_known``: and of which
        it is known what the hub has of it; ``replacing``: and which has nothing in its place there.
        Raises OSError(EBUSY) where that is not soon so."""
        deadline = trio.current_time() + WAIT_MAX
        while True:
            known = self._of(node)
            if node not in self._claims:
                is_open = known is not None and (
                    (until_known and known.is_open)
                    or (replacing and known.item.replaces and known.refused is None)
                )
                if not is_open:
                    break
                if known is None or known.stays_here or not self._view.link.is_up:
                    self._view.link.hurry()
                    raise OSError(errno.EBUSY, "")
                self.wake()
                event = self._tried
            else:
                event = self._claims[node]
            with trio.move_on_at(deadline) as scope:
                await event.wait()
            if scope.cancelled_caught:
                raise OSError(errno.EBUSY, "")
        with self._claim(node):
            if until_known and known is not None and known.earlier:
                known = known if await self._withdrawn(known) else None
            yield known

    def _claim(self, node: RemoteNode) -> Claim:
        return Claim(self._claims, node, self.wake)

    # the spool: all of these within ``_using``

    async def _change(self, known: WaitingNode, item: WaitingFile, content: bytes) -> None:
        """Let ``item`` wait in the place of what waits: with its id, or another where that was on
        the link. Raises OSError, and then it is as it was."""
        old = known.item
        same = not known.sent
        if not same:
            before = _ids(old.identity, item.before)
            item = replace(item, identity=self._spool.new_id(), before=before)
        await trio.to_thread.run_sync(self._spool.save, item, content, old.size if same else 0)
        known.item = known.node.outgoing = item
        known.node.trouble = "" if item.whole else known.node.trouble
        known.refused = None
        if same:
            return
        known.earlier = known.earlier or known.unknown
        known.sent = known.unknown = False
        self._waiting.pop(old.identity, None)
        self._waiting[item.identity] = known
        with harmless():  # the next mount drops it
            await trio.to_thread.run_sync(self._spool.drop, old)

    async def _forget(self, known: WaitingNode) -> None:
        """What is in its place waits already."""
        self._waiting.pop(known.item.identity, None)
        known.node.outgoing = None
        with harmless():
            await trio.to_thread.run_sync(self._spool.drop, known.item)

    # handing over

    async def run(self) -> None:
        """Until cancelled."""
        wait = math.inf
        while True:
            with trio.move_on_after(wait):
                await self._wake.wait()
            self._wake = trio.Event()
            wait = RETRY
            with harmless():
                wait = await self._all()

    async def _all(self) -> float:
        """Hand over what can be. Gives the seconds after which that is to be tried again. What
        fails stops nothing behind it."""
        wait = math.inf
        for identity, known in list(self._waiting.items()):
            if not self._view.link.is_up:
                return math.inf
            if self._waiting.get(identity) is not known or known.node in self._claims:
                continue  # who has it wakes us
            if known.stays_here:
                continue
            if known.refused is not None:
                number, when = known.refused
                if number not in PASSING or trio.current_time() < when + AGAIN:
                    wait = min(wait, AGAIN if number in PASSING else math.inf)
                    continue
            try:
                with Claim(self._claims, known.node, _nobody):  # wakes us not
                    await self._hand_over(identity, known)
            except AwayError:
                wait = min(wait, RETRY)  # with the same id
            except OSError as error:  # of this machine's disk
                known.node.trouble = "this machine cannot read it, or cannot remove it"
                _log.warning("a file that waits: %s", os.strerror(error.errno or errno.EIO))
                wait = min(wait, AGAIN)
            finally:
                self._tried.set()
                self._tried = trio.Event()
            if known.refused is not None and known.refused[0] in PASSING:
                wait = min(wait, AGAIN)
        return wait

    async def _hand_over(self, identity: bytes, known: WaitingNode) -> None:
        """Raises AwayError where nobody knows whether the hub has it; OSError of our own disk."""
        async with self._using:
            if self._waiting.get(identity) is not known:
                return
            item, again, unknown = known.item, known.sent, known.unknown
            content = await self._content(item, again)
            if not self._view.link.is_up:
                raise AwayError
            known.sent = known.unknown = True
        try:
            if content is None:
                result = await self._became(known)
            else:
                result = await self._view.link.hand_over(item, content, again=again)
        except (AwayError, FileNotFoundError):
            raise
        except OSError as error:
            if error.errno == errno.ECANCELED and content is not None:
                await self._under_another_id(identity, known, content)
            else:
                self._refused(identity, known, error.errno or errno.EIO, earlier=unknown)
            return
        try:
            name, fields = made_told(result)
        except OSError as error:  # who knows what it has done
            self._refused(identity, known, error.errno or errno.EIO, earlier=True)
            return
        async with self._using:
            if self._waiting.get(identity) is not known:
                # what is newer is to take its place: the hub has to know it until then
                taken = self._settled(known, identity, name, fields)
            else:
                taken = await self._taken(known, name, fields)
        if taken:
            await self._view.link.tell("taken", taken)

    async def _content(self, item: WaitingFile, again: bool) -> bytes | None:
        """The content of what is to be handed over; None where it is not on the disk any more and
        that is no wonder: the hub has had it before. Raises OSError."""
        try:
            return await self.read(item)
        except FileNotFoundError:
            if not again:
                raise
            return None

    async def _became(self, known: WaitingNode) -> list[Any]:
        """What the hub says of what it may have, and nobody can hand over again. Raises OSError:
        FileNotFoundError where it has it not."""
        if await self._view.link.ask("upload", known.item.identity) is not None:
            known.unknown = False
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return []

    def _refused(self, identity: bytes, known: WaitingNode, number: int, *, earlier: bool) -> None:
        """The hub does not take it; ``earlier``: it may have it all the same, by another try."""
        if self._waiting.get(identity) is not known:
            return  # there is something newer
        known.unknown = False
        known.earlier = known.earlier or earlier
        known.refused = number, trio.current_time()
        why = _WORDS.get(number, os.strerror(number))
        known.node.trouble = f"the hub does not take it: {why}"
        _log.warning("the hub does not take a file: %s", os.strerror(number))

    async def _under_another_id(self, identity: bytes, known: WaitingNode, content: bytes) -> None:
        """Its id was withdrawn, and what was to be done with it then was not. Raises OSError."""
        async with self._using:
            if self._waiting.get(identity) is known:
                known.unknown = False
                await self._change(known, known.item, content)
                known.refused = errno.EAGAIN, trio.current_time()

    async def _taken(self, known: WaitingNode, name: bytes, told: Stat | None) -> list[bytes]:
        """It waits no more: the hub has it. Gives the ids that may be forgotten."""
        item = known.item
        await trio.to_thread.run_sync(self._spool.drop, item)
        del self._waiting[item.identity]
        return self._is_there(known.node, item, name, told)

    def _settled(
        self, known: WaitingNode, identity: bytes, name: bytes, told: Stat | None
    ) -> list[bytes]:
        """The hub has what something newer, which waits, is in the place of: that has taken the
        place of all before it. Gives the ids that may be forgotten. On the disk the newer one has
        more of them: they lead nowhere."""
        ids = ids_in(known.item.before)
        if self._waiting.get(known.item.identity) is not known or identity not in ids:
            return []
        end = ids.index(identity) + 1
        before, replaces = b"".join(ids[:end]), known.item.replaces
        if told is not None and told.conversation and end < BEFORE_MAX:
            before += told.conversation
            if name == known.node.name:  # by which it can be taken back
                replaces, known.earlier = True, False
        known.item = known.node.outgoing = replace(known.item, before=before, replaces=replaces)
        return ids[end:]

    def _is_there(
        self, node: RemoteNode, item: WaitingFile, name: bytes, told: Stat | None
    ) -> list[bytes]:
        """The hub has it. Gives the ids that may be forgotten."""
        tree, above = self._view.tree, node.above
        taken = [item.identity, *ids_in(item.before)]
        node.outgoing, node.trouble, node.local, node.stale = None, "", False, True
        there = above.entries.get(name) if above is not None else None
        if above is not None and told is not None and (there in {None, node} or not is_here(there)):
            if name != node.name:
                tree.move(node, above, name)
            tree.update(node, told, self._view.link.generation)
            node.stale = True
        elif node.writers and above is not None:  # what they write is to be in its place
            node.local, node.before, taken = True, item.identity, []
        else:
            self._view.drop(node)
        if above is not None:
            above.listed = -1.0
            if above.local:
                above.local, above.stale = False, True
        return taken


def _nobody() -> None:
    """Nobody is to be told."""


def _ids(first: bytes, others: bytes) -> bytes:
    """Those in ``first``, and those others. Raises OSError(EBUSY) for more than may be named: then
    somebody has saved a file so often while nobody knew what the hub has of it."""
    ids = list(dict.fromkeys(ids_in(first + others)))
    if len(ids) > BEFORE_MAX:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    return b"".join(ids)
