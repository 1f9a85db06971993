"""Who takes part changes: the user goes on with more people, or leaves. PROTOCOL.rst, Conversations
that change."""

import hashlib
from collections.abc import Callable, Collection, Iterable

import trio

from cbfs.context import Context
from cbfs.interface import Outgoing
from cbfs.messages import conversations
from cbfs.messages.conversations import get_conversation
from cbfs.messages.model import Content, Conversation, Message, Turnover
from cbfs.problems import NotYet, Refused
from cbfs.receiving.compositions import Compositions, is_full, unsaid
from cbfs.sending.compose import Settled, make_message
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Reader, StoreError, Table, Writer
from cbfs_common.limits import PARTICIPANTS_MAX

LEAVING = b"I have left this conversation.\n"
"""What stands in the message by which somebody leaves."""

LOOK_UP_WAIT = 30.0
"""Seconds that whoever adds people waits for the name directory."""

GROUP = 3
"""People in a conversation that is left with a word: one of fewer is only shown no more."""


def present(conversation: Conversation, me: str) -> tuple[str, ...]:
    """To whom, and from whom, a message in this conversation goes. Raises Refused when nobody is
    left."""
    if conversation.present == (me,) != conversation.participants:
        raise Refused(
            "everybody else has left this conversation", "begin another one: mkdir outbox/NAME"
        )
    return conversation.present


class Unsaid(Refused):
    """Writing in a conversation would bring another one along. It is not tried again when somebody
    else has written there: when an envelope leaves must not follow from what comes."""

    def __init__(self, who: Iterable[str], folder: str) -> None:
        super().__init__(
            f"this would add {', '.join(who)} to {folder}, and nobody who is in that has done so",
            "if you want to, add them in its metadata.toml; else begin another: mkdir outbox/NAME",
        )


def check_said(
    reader: Reader, conversation: Conversation, me: str, label: Callable[[str], str]
) -> None:
    """Raises Unsaid for a conversation in which the user would add people to another one just by
    writing in it. ``label``: what people are shown as."""
    before = unsaid(reader, conversation, me)
    if before is not None:
        new = set(conversation.present) - set(before.participants)
        raise Unsaid(map(label, sorted(new)), before.folder)


async def go_on(
    context: Context, conversation: bytes, people: Iterable[str]
) -> tuple[Conversation, Turnover]:
    """Go on with more people: gives the conversation in which, and what has changed; on the disk on
    return. Raises Refused, or NotYet while the directory does not answer: then nothing has changed.
    Nothing is taken in meanwhile."""
    me, names = context.account.name, set(people)
    with context.store.read() as reader:
        known = get_conversation(reader, conversation)
    new = names - set(known.participants if known else ())
    with trio.move_on_after(LOOK_UP_WAIT) as waited:
        await context.look_up.find_all(sorted(new))
    if waited.cancelled_caught:
        raise NotYet("the name directory does not answer", "try again later")

    def change(writer: Writer) -> tuple[Conversation, Turnover]:
        before = get_conversation(writer, conversation)
        if before is None:
            raise StoreError("people are to be added to no conversation", "see the log")
        more = names - set(before.present)
        if not more:
            return before, Turnover()
        _check(writer, before, me)
        compositions = Compositions(writer, context.contacts.directories, me, before.began)
        gone = more & compositions.gone(conversation)
        _check_people(before, more, [context.contacts.label(name) for name in gone])
        return compositions.go_on(conversation, more), compositions.changes

    async with context.sessions.lock:
        return await context.store.commit(change)


def _check(writer: Writer, conversation: Conversation, me: str) -> None:
    """Raises Refused for a conversation that cannot go on with more people."""
    if conversation.participants == (me,):
        raise Refused("this is a note to yourself", "begin a conversation: mkdir outbox/NAME")
    if me in conversation.left:
        raise Refused("you have left this conversation", "begin another one: mkdir outbox/NAME")
    if conversation.next:
        after = get_conversation(writer, conversation.next)
        where = after.folder if after else "another one"
        raise Refused(f"this conversation goes on in {where}", "add people there")
    if is_full(writer, conversation.began):
        raise Refused("the people of this conversation have changed too often", "begin another one")


def _check_people(
    conversation: Conversation, more: Collection[str], returning: Collection[str]
) -> None:
    """Raises Refused for people who cannot be added: those ``returning`` have left, as labels."""
    if returning:
        who = ", ".join(sorted(returning))
        raise Refused(
            f"{who} has left this conversation, and cannot be added again",
            "begin another one with them: mkdir outbox/NAME",
        )
    if len(conversation.present) + len(more) > PARTICIPANTS_MAX:
        raise Refused(f"a conversation has at most {PARTICIPANTS_MAX} people", "name fewer of them")


def tells(conversation: Conversation, me: str) -> bool:
    """Whether the others are told when the user leaves this conversation."""
    return (
        len(conversation.participants) >= GROUP
        and not conversation.next
        and me not in conversation.left
        and conversation.present != (me,)
    )


def settled_for_leaving(context: Context, conversation: Conversation) -> Settled:
    """What is settled of the message that says so."""
    digest = hashlib.blake2b(LEAVING, digest_size=32).digest()
    random = context.random
    return Settled(
        context.account.name,
        conversation.present,
        conversation.subject,
        digest,
        context.clock(),
        random.token(16),
        random.token(16),
        context.contacts.directories,
    )


def say_leaving(
    writer: Writer, conversation: Conversation, settled: Settled
) -> tuple[Message, Turnover]:
    """The user has left a conversation, which is not shown any more: tell the others. In the same
    transaction: a crash before it leaves the conversation as it was, one after it a message that is
    delivered."""
    content = Content(writer.random_number(), len(LEAVING), len(LEAVING))
    writer.put(Table.CONTENT, u64(content.id) + u32(0), LEAVING)
    outgoing = Outgoing(
        conversation.id,
        (),
        conversation.subject,
        "",
        content,
        lambda _writer, _conversation: None,
        leaving=True,
    )
    _shown, message = make_message(writer, {conversation.id: conversation}, outgoing, settled)
    conversations.leave(writer, conversation.id)
    compositions = Compositions(writer, settled.directories, settled.me, conversation.began)
    compositions.leave(conversation, settled.me)
    return message, compositions.changes
