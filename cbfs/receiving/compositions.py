"""Conversations that go on with other people, and who has left them, as records of the store.
PROTOCOL.rst, Conversations that change.

Who takes part in a conversation never changes. One that goes on with more people is another one,
which names its root, the one in which all began; each has its messages, its order and its folders
to itself. Those of one root are compared as sets of people: one follows another when everybody who
is in the other one, and has not left, is in it too, and somebody of these writes in it. What is
written next goes to all who are in any that is followed, but those who have left: in the one that
the others go on in (``Conversation.next``). No clock has a say in this, nor has the order in which
messages come, but that who is known to have left adds nobody.

Everything here belongs into the transaction of what brings it about: a crash leaves both or
neither.
"""

from collections.abc import Collection
from dataclasses import replace

from cbfs.messages import lifetimes
from cbfs.messages.conversations import (
    add_conversation,
    begun_by,
    get_conversation,
    is_left,
    last_written,
    name_folder,
    put_conversation,
    writers,
)
from cbfs.messages.model import Conversation, Turnover
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.limits import COMPOSITIONS_MAX, PARTICIPANTS_MAX
from cbfs_common.messages.conversation import CONVERSATION_ID_SIZE, continued_id
from cbfs_common.person import Directories


def is_full(reader: Reader, root: bytes) -> bool:
    """Whether no more that go on from this root are looked at: what is begun then stands by
    itself."""
    known = reader.get(Table.META, Meta.GOING_ON + root) or b""
    return len(known) >= COMPOSITIONS_MAX * CONVERSATION_ID_SIZE


def note_begun(writer: Writer, conversation: Conversation) -> None:
    """A conversation that goes on from another one is new here."""
    if conversation.root and not is_full(writer, conversation.root):
        key = Meta.GOING_ON + conversation.root
        writer.put(Table.META, key, (writer.get(Table.META, key) or b"") + conversation.id)


def _of_root(reader: Reader, root: bytes) -> dict[bytes, Conversation]:
    """All of one root that are here, by id."""
    data = reader.get(Table.META, Meta.GOING_ON + root) or b""
    size = CONVERSATION_ID_SIZE
    keys = [root, *(data[at : at + size] for at in range(0, len(data), size))]
    found = (get_conversation(reader, key) for key in keys)
    return {one.id: one for one in found if one is not None and one.began == root}


def _may_be_before(
    known: dict[bytes, Conversation], one: Conversation, people: Collection[str], subject: str
) -> bool:
    """Whether some people may go on from this one, about the same: everybody who is in it and has
    not left is among them. So they must be in the root's, where that is known: else it is a
    conversation of some of them among themselves."""
    root = known.get(one.began)
    return (
        one.subject == subject
        and set(one.present) <= set(people)
        and set(one.participants) != set(people)
        and (root is None or set(root.present) <= set(one.participants))
    )


def followed(
    reader: Reader, root: bytes, people: Collection[str], subject: str, sender: str
) -> list[Conversation]:
    """From which conversations ``sender`` goes on by writing to these people about ``subject``, in
    one of this ``root``."""
    known = _of_root(reader, root) if root else {}
    return [
        one
        for one in known.values()
        if sender in one.present and _may_be_before(known, one, people, subject)
    ]


def added_by(reader: Reader, conversation: Conversation, sender: str) -> tuple[str, ...]:
    """Whom ``sender`` adds by writing in a conversation: who is in it, and in none of those from
    which they go on, where nobody of these has gone on before. Nobody, for who knows of none."""
    people = conversation.participants
    before = followed(reader, conversation.root, people, conversation.subject, sender)
    for writer in writers(reader, conversation.id) if before else ():
        before = [one for one in before if writer not in one.present]
        if not before:
            break
    there = {name for one in before for name in one.participants}
    return tuple(name for name in people if name not in there) if before else ()


def unsaid(reader: Reader, conversation: Conversation, me: str) -> Conversation | None:
    """One that the user, who is ``me``, would have go on in this conversation by writing in it, as
    nobody else who is in that has; None when there is none. Whoever knows who talks with whom can
    name the id of what they have between them as a root, and wait for an answer."""
    if not conversation.root:
        return None
    known = _of_root(reader, conversation.root) | {conversation.id: conversation}
    people, subject = conversation.participants, conversation.subject
    end = _newest(known, conversation).id
    brought = [
        each
        for each in known.values()
        if me in each.present
        and _newest(known, each).id != end
        and _may_be_before(known, each, people, subject)
    ]
    said = set(writers(reader, conversation.id)) - {me} if brought else set()
    return next((each for each in brought if not said & set(each.present)), None)


def newest(reader: Reader, conversation: Conversation) -> Conversation:
    """That in which this one goes on, itself when it does in none."""
    return _newest(_of_root(reader, conversation.began), conversation)


def _newest(known: dict[bytes, Conversation], one: Conversation) -> Conversation:
    while one.next:
        one = known[one.next]
    return one


class Compositions:
    """The conversations of one root in one transaction, as ``me`` sees them. ``fresh``: one of them
    that was stored in it. What ``changes`` of them."""

    def __init__(
        self, writer: Writer, directories: Directories, me: str, root: bytes, fresh: bytes = b""
    ) -> None:
        self._writer = writer
        self._directories = directories
        self._me = me
        self._root = root
        self._known = _of_root(writer, root)
        self._fresh = {fresh}
        self.changes = Turnover()

    def written(self, conversation: bytes, sender: str) -> None:
        """``sender`` has written in a conversation: find out in which one it, and others, go on.
        By each step there are fewer that go on in no other one, so that there is a last one."""
        while any(
            self._follow(one, sender if one.id == conversation else "")
            for one in list(self._known.values())
        ):
            pass

    def gone(self, conversation: bytes) -> set[str]:
        """Who has left this one, or another one that goes on in the same."""
        end = _newest(self._known, self._known[conversation]).id
        return {
            name
            for one in self._known.values()
            for name in one.left
            if _newest(self._known, one).id == end
        }

    def go_on(self, conversation: bytes, more: Collection[str]) -> Conversation:
        """The user goes on with ``more`` people: gives the conversation in which. The caller has
        seen to it that nobody of them has left, and that there is room for them, and for one more
        conversation."""
        before = self._known[conversation]
        one = self._of(tuple(sorted({*before.present, *more})), before)
        if (end := _newest(self._known, one)).id != before.id:
            self._join(end, [before])
            self.written(one.id, self._me)
        return _newest(self._known, self._known[one.id])

    def leave(self, conversation: Conversation, name: str) -> None:
        """Somebody leaves a conversation, and so all that go on in the same one."""
        known = self._known.setdefault(conversation.id, conversation)
        self._put_left(_newest(self._known, known), {name})

    def _follow(self, one: Conversation, sender: str) -> bool:
        """Find those from which this one goes on. True when there are some that did not go on in
        the same one yet."""
        if not one.root:
            return False
        end = _newest(self._known, one)
        before = [
            each
            for each in self._known.values()
            if _newest(self._known, each).id != end.id
            and _may_be_before(self._known, each, one.participants, one.subject)
        ]
        # what the user has written there, before these came, says nothing of them
        wrote = {sender, *writers(self._writer, one.id)} if before else set()
        if sender != self._me:
            wrote.discard(self._me)
        found = [_newest(self._known, each) for each in before if wrote & set(each.present)]
        return bool(found) and self._join(end, list({each.id: each for each in found}.values()))

    def _join(self, one: Conversation, before: list[Conversation]) -> bool:
        """These go on in this one; or all of them in whichever has everybody who is in any of them
        and has not left, which may be to be made. False when those would be too many."""
        those = {each.id: each for each in (one, *before)}
        left = {name for key in those for name in self.gone(key)}
        people = {name for each in those.values() for name in each.participants} - left
        enough = [each for each in those.values() if people <= set(each.participants)]
        if not enough and (len(people) > PARTICIPANTS_MAX or is_full(self._writer, self._root)):
            return False
        first = min(before, key=lambda each: (each.started, each.id))
        if enough:
            target = min(enough, key=lambda each: (len(each.participants), each.id))
        else:
            target = _newest(self._known, self._of(tuple(sorted(people)), first))
        ending = [key for key in those if key != target.id]
        for key in ending:
            self._put(replace(self._known[key], next=target.id))
        if target.id in self._fresh:
            self._take_over(target.id, first, ending)
        for key in ending:
            if key in self._fresh:  # it has no folder under outbox/, now or later
                self._put(replace(self._known[key], outbox_inode=0))
        self._put_left(self._known[target.id], left)
        return True

    def _of(self, people: tuple[str, ...], like: Conversation) -> Conversation:
        """The conversation of these people, made ``like`` another one if it is not there."""
        key = continued_id(self._root, self._directories.people(people), like.subject)
        if key not in self._known:
            begun, since = self._begun_by(like, people), like.started
            made = add_conversation(
                self._writer, key, begun, people, like.subject, since, self._root
            )
            note_begun(self._writer, made)
            self._put(made)
            self._fresh.add(key)
        return self._known[key]

    def _begun_by(self, like: Conversation, people: tuple[str, ...]) -> str:
        begun = begun_by(self._writer, like)
        return begun if begun in people else people[0]

    def _take_over(self, key: bytes, first: Conversation, ending: list[bytes]) -> None:
        """One that is new gets the name, the lifetime and the folder under outbox/ of those that
        are ``ending``; of several folders that in which the user has written last: the others stay,
        for those who are in them."""
        writer, moved = self._writer, self.changes.moved
        target = replace(self._known[key], started=first.started)
        target = name_folder(writer, target, self._begun_by(first, target.participants))
        self._put(target)
        lifetimes.inherit(writer, ending, key)
        shown = [
            each
            for each in ending
            if self._known[each].outbox_inode
            and not is_left(writer, each)
            and (each not in self._fresh or each in moved.values())
        ]
        if shown:
            last = max(
                shown, key=lambda each: (each in moved.values(), last_written(writer, each), each)
            )
            giver = self._known[last]
            self._put(replace(target, outbox_inode=giver.outbox_inode))
            self._put(replace(giver, outbox_inode=0))
            moved[last] = key

    def _put_left(self, target: Conversation, left: Collection[str]) -> None:
        """These have left all that go on in this one."""
        for one in list(self._known.values()):
            if _newest(self._known, one).id == target.id:
                both = tuple(sorted({*one.left, *(set(left) & set(one.participants))}))
                if both != one.left:
                    self._put(replace(one, left=both))

    def _put(self, conversation: Conversation) -> Conversation:
        self._known[conversation.id] = put_conversation(self._writer, conversation)
        self.changes.new[conversation.id] = conversation
        return conversation
