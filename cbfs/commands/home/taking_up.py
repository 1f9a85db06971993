"""An account that was brought over from long ago (``cbfs.earlier``) takes its name in a name
directory of now, with the keys that it has: what that takes before anybody is asked.

Who its people are there is not known yet: each is whoever shows the keys that were known of them
(``Contacts.learn``). What follows from directories is made anew: requests, whose people are those
of the other directory, the hashes of what has not left, which say whom it goes to, and ids of
conversations, which say whose they are. A conversation goes on in another one, of the same people,
whose root it is: its messages stay where they are. All of it is one transaction.
"""

from dataclasses import replace

from cbfs.account.account import Account, put_account
from cbfs.interface import Outgoing
from cbfs.messages import history, lifetimes
from cbfs.messages.content import share_content
from cbfs.messages.conversations import (
    add_conversation,
    begun_by,
    come_back,
    exchange_names,
    get_conversation,
    is_left,
    leave,
    load_conversations,
    put_conversation,
)
from cbfs.messages.model import Conversation, Delivery, Message
from cbfs.messages.queues import delivery_queue
from cbfs.messages.queues.delivery_queue import job_of
from cbfs.names.own_name import is_outlived, read_own
from cbfs.receiving.compositions import is_full, note_begun
from cbfs.receiving.lost_state import make_listings
from cbfs.receiving.message_requests import move_requests
from cbfs.sending.compose import Settled, make_message
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.messages.body import SALT_SIZE
from cbfs_common.messages.conversation import carried_on
from cbfs_common.names.policy import parse_policy
from cbfs_common.person import Directories
from cbfs_common.primitives import Random
from cbfs_common.profile import Address


def is_to_be_taken_up(store: Store) -> bool:
    """Whether the name of the account in a store is in a directory of long ago."""
    with store.read() as reader:
        return is_outlived(read_own(reader))


def take_up(
    store: Store, account: Account, server: Address | None, policy: str, random: Random
) -> None:
    """Let an account go on at this server, and by this policy of a name directory. Raises CbfsError
    for one without an owner key, or without a server."""
    if not account.owner or server is None:
        raise CbfsError(
            "the account is of an earlier cbfs, and goes on with the owner key that it has, at a"
            " server that you name",
            f"cbfs init {account.name} --account DIRECTORY --server URL --names POLICYFILE",
        )
    before, now = parse_policy(account.policy).directory, parse_policy(policy).directory
    moved = replace(account, server=server, policy=policy, former=())

    def change(writer: Writer) -> None:
        put_account(writer, moved)
        for key in Meta.DIRECTORY, Meta.OWN_SERVER:
            writer.delete(Table.META, key)
        if before != now:
            move_requests(writer, before, now)
            for conversation in load_conversations(writer).values():
                _carry_on(writer, conversation, account.name, Directories(now), random)

    make_listings(store)  # messages are found by them, and nothing may have mounted it yet
    store.write(change)


def _carry_on(
    writer: Writer, conversation: Conversation, me: str, directories: Directories, random: Random
) -> None:
    """Go on in this conversation, or in another one that goes on from it: whoever does not have it
    yet takes in neither what waits there nor what is written later, as its id follows from people
    of another directory. One that nothing is left in then is shown no more, and gives the other
    one its name."""
    one = _next(writer, conversation, me, directories)
    _write_anew(writer, conversation, one, me, directories, random)
    if one.id != conversation.id and history.newest_message(writer, conversation.id) is None:
        exchange_names(writer, get_conversation(writer, conversation.id) or conversation, one)
        leave(writer, conversation.id)


def _next(writer: Writer, before: Conversation, me: str, directories: Directories) -> Conversation:
    people = directories.people(before.participants)
    key, root = carried_on(before.id, people, before.subject, before.root)
    alone, ended = before.participants == (me,), before.next or is_left(writer, before.id)
    if key == before.id or alone or ended or is_full(writer, root):
        return before
    made = get_conversation(writer, key)
    if made is None:
        whose, since = begun_by(writer, before), before.started
        names = before.participants
        made = add_conversation(writer, key, whose, names, before.subject, since, root)
        note_begun(writer, made)
    else:
        come_back(writer, key)  # this directory is tried once more, after another one
    put_conversation(writer, replace(before, next=key, outbox_inode=0))
    lifetimes.inherit(writer, (before.id,), key)
    going = replace(made, outbox_inode=before.outbox_inode, left=before.left, next=b"")
    return put_conversation(writer, going)


def _write_anew(
    writer: Writer,
    before: Conversation,
    one: Conversation,
    me: str,
    directories: Directories,
    random: Random,
) -> None:
    """Make those of one's own messages in the conversation ``before`` anew, in this ``one``, that
    have gone to nobody; and when that is another one, also those that have gone to some, who get
    them once more."""
    found = history.load_messages(writer, before.id)
    waiting = [message for message in found if _waits(message, some=one.id != before.id)]
    for message in reversed(waiting):
        history.replaced_as_parent(writer, message)
        for who, _state in message.recipients:
            if job := job_of(writer, message, who):
                delivery_queue.drop_copy(writer, job)
        share_content(writer, message.content.id)
        history.remove_message(writer, message)
    for message in waiting:
        if message.origin is not None:
            _make(writer, one, message, message.origin.digest, me, directories, random)


def _waits(message: Message, *, some: bool) -> bool:
    """Whether a message waits for all of its recipients, or for ``some``."""
    states = {state for _who, state in message.recipients}
    return states == {Delivery.QUEUED} or (some and Delivery.QUEUED in states)


def _make(
    writer: Writer,
    conversation: Conversation,
    message: Message,
    digest: bytes,
    me: str,
    directories: Directories,
    random: Random,
) -> None:
    outgoing = Outgoing(
        conversation.id,
        conversation.participants,
        conversation.subject,
        message.file_name,
        message.content,
        lambda _writer, _conversation: None,
        folder=message.folder,
    )
    settled = Settled(
        me,
        conversation.participants,
        conversation.subject,
        digest,
        message.date,
        random.token(SALT_SIZE),
        random.token(SALT_SIZE),
        directories,
    )
    make_message(writer, {conversation.id: conversation}, outgoing, settled)
