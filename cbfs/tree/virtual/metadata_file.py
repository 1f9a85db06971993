"""``metadata.toml``: what it says of a conversation, what a user may write into it, and the file.

In the folders of conversations it is a text of the daemon's, which under outbox/ becomes a file
while a program changes it. However an editor saves, what counts is the file that has the name when
nobody has it open for writing; then the text is there again, as things are now. When a wrong one is
closed, it stays to be mended (EINVAL); one is not renamed onto the name (EPERM, as for
config.toml). ``metadata.toml.error`` says why. One that is empty, was removed or moved away changes
nothing and comes back. Of the rest only the lifetime of messages can be changed; it is stored
before close returns. So is it when people are added: the conversation goes on in another one, which
has the folder from then on. Nobody can be taken out.
"""

import difflib
import errno
import stat
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import tomli_w

from cbfs.contacts.user_names import typed_name
from cbfs.interface import Backend, People
from cbfs.messages import lifetimes
from cbfs.messages.file_names import ERROR_SUFFIX, moment
from cbfs.messages.lifetimes import Setting
from cbfs.messages.model import Conversation
from cbfs.messages.transcript import escaped
from cbfs.problems import NotYet, Refused
from cbfs.storage.encoding import u64
from cbfs.storage.store import Table
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import File, Folder, Node, Text
from cbfs.tree.rules import METADATA, Area, TreeError
from cbfs.tree.texts import checked_people, error_text
from cbfs.tree.virtual.virtual_directory import inode_for
from cbfs_common.errors import CbfsError

METADATA_MAX = 65_536

_COMMENT = """# To have messages deleted on both sides so long after they are there, from now on:
# lifetime = "7d"
"""

_MORE = """# To go on with more people, who see nothing of what was before, add their names above.
"""

_OF_USERS = ("participants", "subject", "lifetime")
_OF_OURS = ("id", "started", "lifetime_from", "lifetime_since", "continues", "goes_on", "left")


@dataclass(frozen=True, slots=True)
class Edit:
    """What a user has changed of a conversation: the seconds that its messages are kept, None when
    none are said, and true names of people who are to be added."""

    lifetime: int | None
    more: tuple[str, ...]


NO_EDIT = Edit(None, ())


def text_of(
    conversation: Conversation, setting: Setting, shown: Callable[[str], str], *, editable: bool
) -> str:
    """That of a conversation; one that is ``editable`` says how. ``shown``: what stands in it for a
    true name."""
    text = escaped(tomli_w.dumps(_table(conversation, setting, shown)))
    if not editable:
        return text
    return text + ("" if setting.source else _COMMENT) + _MORE


def true_names(people: People) -> Callable[[str], str]:
    """What stands in metadata.toml for a true name: that, and ``@NAME`` where it is the petname of
    another."""

    def shown(name: str) -> str:
        return called if (called := people.label(name))[0] == "@" else people.shown(name)

    return shown


def _table(
    conversation: Conversation, setting: Setting, shown: Callable[[str], str]
) -> dict[str, object]:
    table: dict[str, object] = {
        "id": conversation.id.hex(),
        "participants": [shown(name) for name in conversation.present],
        "subject": conversation.subject,
        "started": moment(conversation.started),
    }
    if conversation.left:
        table["left"] = [shown(name) for name in conversation.left]
    if conversation.root:
        table["continues"] = conversation.root.hex()
    if conversation.next:
        table["goes_on"] = True  # in which, who has been given this one alone is not to see
    if setting.source:
        table["lifetime"] = lifetimes.words(setting.lifetime.seconds)
        table["lifetime_from"] = shown(setting.source)
        table["lifetime_since"] = moment(setting.since)
    return table


def read_new(
    data: bytes, called: Callable[[str], str] = typed_name
) -> tuple[tuple[str, ...], str, int]:
    """(participants, subject, seconds that messages are kept or 0) of one that a user wrote for a
    conversation that is to be; ``called`` says whom a name means. Raises Refused."""
    table = _parse(data)
    _check_keys(table, (*_OF_USERS, *_OF_OURS))  # it may be a copy of another one
    participants, subject = table.get("participants"), table.get("subject", "")
    if not isinstance(participants, list) or not all(isinstance(n, str) for n in participants):
        raise Refused("metadata.toml is wrong", 'it needs: participants = ["bob", "carol"]')
    if not isinstance(subject, str):
        raise Refused("metadata.toml is wrong", 'subject is a text: subject = "lunch"')
    return checked_people(participants, called), subject, _lifetime(table.get("lifetime", ""))


def read_changed(
    data: bytes,
    conversation: Conversation,
    setting: Setting,
    shown: Callable[[str], str] = str,
    called: Callable[[str], str] = typed_name,
    me: str = "",
) -> Edit:
    """What a user, who is ``me``, has set for a conversation; ``called`` says whom a name means.
    What else is said must be as it is. Raises Refused."""
    table, known = _parse(data), _table(conversation, setting, shown)
    _check_keys(table, (*_OF_USERS, *_OF_OURS))
    for key, value in table.items():
        fixed = key not in {"participants", "goes_on"} and not key.startswith("lifetime")
        if fixed and value != known.get(key):
            hint = "change lifetime, or add participants"
            raise Refused(f"{key} of a conversation cannot be changed", hint)
    lifetime = _lifetime(table["lifetime"]) if "lifetime" in table else None
    if "participants" not in table:
        return Edit(lifetime, ())
    return Edit(lifetime, _added(table["participants"], conversation, shown, called, me))


def _added(
    value: object,
    conversation: Conversation,
    shown: Callable[[str], str],
    called: Callable[[str], str],
    me: str,
) -> tuple[str, ...]:
    """Who is among the participants and was not before. Raises Refused when somebody is missing, or
    has left."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Refused("metadata.toml is wrong", 'for example: participants = ["bob", "carol"]')
    here = {shown(name): name for name in conversation.participants}
    names = [here[name] if name in here else checked_people([name], called)[0] for name in value]
    if missing := [name for name in conversation.present if name not in (*names, me)]:
        raise Refused(
            f"{', '.join(map(shown, missing))} cannot be taken out of a conversation",
            "begin another one without them: mkdir outbox/NAME",
        )
    if left := [name for name in names if name in conversation.left]:
        raise Refused(
            f"{', '.join(map(shown, left))} has left this conversation, and cannot be added again",
            "begin another one with them: mkdir outbox/NAME",
        )
    return tuple(name for name in dict.fromkeys(names) if name not in (*conversation.present, me))


def _parse(data: bytes) -> dict[str, Any]:
    try:
        if len(data) > METADATA_MAX:
            raise ValueError("it is too long")
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"metadata.toml is wrong: {error}", "mend it") from error


def _check_keys(table: dict[str, Any], keys: Iterable[str]) -> None:
    for name in table:
        if name not in keys:
            near = difflib.get_close_matches(name, keys, 1)
            hint = f"did you mean {near[0]}" if near else f"you may set {', '.join(_OF_USERS)}"
            raise Refused(f"metadata.toml is wrong: there is no {name!r}", hint)


def _lifetime(value: object) -> int:
    try:
        return lifetimes.parse(value)
    except ValueError as error:
        raise Refused(
            f"metadata.toml is wrong: lifetime is not {error}", 'for example: lifetime = "7d"'
        ) from error


BACK_AFTER = 5.0
"""Seconds until one that was taken away comes back: editors that move it away to save a new one
take less."""

ERROR = METADATA + ERROR_SUFFIX


class MetadataText(Text):
    """As things are now. ``editable`` is that under outbox/."""

    __slots__ = ("_backend", "conversation", "editable")

    def __init__(
        self,
        inode: int,
        backend: Backend,
        conversation: Conversation,
        *,
        editable: bool,
    ) -> None:
        super().__init__(inode, self._text, conversation.started * 1_000_000)
        self.mode = stat.S_IFREG | (0o600 if editable else 0o400)
        self._backend = backend
        self.conversation = conversation
        self.editable = editable

    def is_of(self, conversation: Conversation) -> None:
        """The conversation is other than before, now."""
        self.conversation = conversation
        self.mtime_ns = self.renew()

    @property
    def setting(self) -> Setting:
        """The lifetime of the conversation."""
        with self._backend.store.read() as reader:
            return lifetimes.setting(reader, self.conversation.id)

    @property
    def modified_ns(self) -> int:
        """When the lifetime was last changed."""
        return max(self.mtime_ns, self.setting.since * 1_000_000)

    def _text(self) -> bytes:
        shown = true_names(self._backend.people)
        text = text_of(self.conversation, self.setting, shown, editable=self.editable)
        return text.encode()


class MetadataFiles:
    """Those under outbox/ of one tree, whose are ``read``, ``new_inode`` and ``inodes``."""

    def __init__(
        self,
        backend: Backend,
        read: Callable[[Node, int, int], bytes],
        new_inode: Callable[[], int],
        inodes: Inodes,
        conversation: Callable[[bytes], Conversation],
    ) -> None:
        self._backend = backend
        self._read_bytes = read
        self._new_inode = new_inode
        self._inodes = inodes
        self._conversation = conversation
        self._before: dict[File, int] = {}  # the seconds that were set when it was opened
        self._refused: dict[File, int] = {}  # which version could not be put into effect
        self._applied: dict[File, int] = {}  # which version is in effect
        self._adding: set[bytes] = set()  # to which conversations the user is adding people
        self._away: dict[Folder, float] = {}  # where there is none, or an empty one, since when

    def text(self, conversation: Conversation, *, editable: bool) -> MetadataText:
        """One, not yet entered anywhere."""
        inode = inode_for(b"metadata", conversation.id, b"rw" if editable else b"r")
        with self._backend.store.read() as reader:
            if reader.get(Table.NODES, u64(inode)) is not None:
                inode = self._new_inode()  # that file was moved away, and is kept elsewhere
        return MetadataText(inode, self._backend, conversation, editable=editable)

    def place_of(self, node: Node) -> Folder | None:
        """The folder of a conversation in which this file has the name."""
        if not isinstance(node, File):
            return None
        return next((d for d, name in node.names if is_place(d, name)), None)

    def opened(self, node: Node) -> Node:
        """In the place of a text that is about to be changed or moved: a file that says the same.
        Everything else is as it is."""
        if not isinstance(node, MetadataText) or not node.editable or not node.names:
            return node
        file = File(node.inode, 0o600, node.modified_ns, None)
        file.fill(node.render())
        self._before[file] = node.setting.lifetime.seconds
        ((drafts, _name),) = node.names
        self._exchange(drafts, file)
        return file

    def check(self, file: File, drafts: Folder, number: int) -> Edit:
        """It is about to be closed in its place in this folder, or to be moved there: what it
        changes. Raises TreeError(number) when what it says is wrong; the error file then says
        why."""
        try:
            return self._read(file, drafts)
        except Refused as error:
            self._tell(drafts, error)
            raise TreeError(number) from error

    async def apply(self, file: File, *, adds: bool = True) -> None:
        """A handle of it is about to be closed: what it says is in effect on return. A crash
        before the commit leaves what was set before. Without ``adds`` nobody may be added. Raises
        TreeError(EINVAL)."""
        drafts, version = self.place_of(file), file.version
        if drafts is None or not file.size:
            return
        if self._applied.get(file) == version:  # and it is another conversation's by now, it may be
            return
        self._refused.pop(file, None)
        edit = self.check(file, drafts, errno.EINVAL)
        seconds = edit.lifetime
        if seconds is not None and seconds != self._before.get(file):
            key, me, now = self._known(drafts).id, self._backend.name, time.time_ns() // 1_000_000
            await self._backend.store.commit(
                lambda writer: lifetimes.choose(writer, key, seconds, me, now)
            )
            self._before[file] = seconds
        if edit.more:
            await self._add(file, drafts, edit.more, adds)
        self._applied[file] = version
        if (place := self.place_of(file)) is not None:
            self._tell(place, None)

    async def _add(self, file: File, drafts: Folder, more: tuple[str, ...], adds: bool) -> None:
        try:
            if not adds:
                raise Refused("nobody can be added here", "do it where all conversations are")
            key = self._known(drafts).id
            self._adding.add(key)
            try:
                await self._backend.go_on(key, more)
            finally:
                self._adding.discard(key)
        except (Refused, NotYet) as error:
            self._refused[file] = file.version
            self._tell(drafts, error)
            raise TreeError(errno.EINVAL) from error

    def adds_to(self, conversation: bytes) -> bool:
        """Whether it is the user who is adding people to this conversation."""
        return conversation in self._adding

    async def settle(self, file: File, *, adds: bool = True) -> None:
        """The last handle that could write is closed, or it was moved to its place: show the text
        again. A wrong one stays."""
        version = file.version
        if self._refused.get(file) == version:  # and nobody is looked up for it once more
            return
        try:
            await self.apply(file, adds=adds)
        except TreeError:
            return
        drafts = self.place_of(file)
        if drafts is None or file.writers or file.version != version:
            return
        if file.size:
            self._show(drafts, file.inode)
            for known in (self._before, self._refused, self._applied):
                known.pop(file, None)
        else:
            self.went(drafts)

    def went(self, drafts: Folder) -> None:
        """It was removed or moved away, or is empty: something else may come in its place."""
        self._away.setdefault(drafts, time.monotonic())
        for known in (self._before, self._refused, self._applied):
            for file in [file for file in known if self.place_of(file) is None]:
                del known[file]

    def left(self, drafts: Folder) -> None:
        """The folder is shown no more, and nothing comes back in it."""
        self._away.pop(drafts, None)

    def look(self) -> float | None:
        """Bring back those that have been away for so long. Gives the seconds until that has to be
        looked at again, None when all are there."""
        now, left = time.monotonic(), []
        for drafts, since in list(self._away.items()):
            there = drafts.entries.get(METADATA)
            if there is not None and not (isinstance(there, File) and not there.size):
                del self._away[drafts]
            elif isinstance(there, File) and there.writers:
                left.append(BACK_AFTER)
            elif since + BACK_AFTER > now:
                left.append(since + BACK_AFTER - now)
            else:
                del self._away[drafts]
                self._show(drafts, there.inode if there else self._new_inode())
        return min(left, default=None)

    def _known(self, drafts: Folder) -> Conversation:
        return self._conversation(drafts.conversation or b"")

    def _show(self, drafts: Folder, inode: int) -> None:
        known = self._known(drafts)
        self._exchange(drafts, MetadataText(inode, self._backend, known, editable=True))

    def _exchange(self, drafts: Folder, node: Node) -> None:
        """Enter it in the place of what is there; the kernel knows both by one inode."""
        if METADATA in drafts.entries:
            drafts.remove(METADATA)
        drafts.add(METADATA, node)
        self._inodes.replace(node)

    def _read(self, file: File, drafts: Folder) -> Edit:
        """What it changes: nothing when it is empty. Raises Refused."""
        if not file.size:
            return NO_EDIT
        conversation = self._known(drafts)
        with self._backend.store.read() as reader:
            setting = lifetimes.setting(reader, conversation.id)
        data = self._read_bytes(file, 0, METADATA_MAX + 1)
        people, me = self._backend.people, self._backend.name
        shown = true_names(people)
        return read_changed(data, conversation, setting, shown, people.called, me)

    def _tell(self, drafts: Folder, error: CbfsError | None) -> None:
        there = drafts.entries.get(ERROR)
        if error is None:
            if isinstance(there, Text):
                drafts.remove(ERROR)
            return
        data = error_text(error, error.hint, "Nothing was changed").encode()
        if isinstance(there, Text):
            there.render = lambda: data
            there.mtime_ns = time.time_ns()
        elif there is None:
            drafts.add(ERROR, Text(self._new_inode(), lambda: data, time.time_ns()))


def is_place(directory: Folder, name: str) -> bool:
    """Whether that is where the metadata.toml of a conversation is under outbox/."""
    return name == METADATA and directory.area is Area.DRAFTS and directory.conversation is not None


def refuse_link(directory: Folder, name: str) -> None:
    """Refuse a link with the name and place of a metadata.toml, as what it leads to would not be
    looked at. Raises TreeError(EACCES)."""
    if is_place(directory, name):
        raise TreeError(errno.EACCES)
