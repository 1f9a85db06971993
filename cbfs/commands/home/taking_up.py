"""An account that was brought over from long ago (``cbfs.earlier``) takes its name in a name
directory of now, with the keys that it has: what that takes before anybody is asked.

Who its people are there is not known yet: each is whoever shows the keys that were known of them
(``Contacts.learn``). What follows from directories is made anew: requests, whose people are those
of the other directory, and the hashes of what has not left, which say whom it goes to. All of it is
one transaction; done again, it changes nothing that anybody sees.
"""

from dataclasses import replace

from cbfs.account.account import Account, put_account
from cbfs.interface import Outgoing
from cbfs.messages import history
from cbfs.messages.content import share_content
from cbfs.messages.conversations import get_conversation, load_conversations
from cbfs.messages.model import Conversation, Delivery, Message
from cbfs.messages.queues import delivery_queue
from cbfs.messages.queues.delivery_queue import job_of
from cbfs.names.own_name import is_outlived, read_own
from cbfs.receiving.message_requests import move_requests
from cbfs.sending.compose import Settled, make_message
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.messages.body import SALT_SIZE
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
            for conversation in load_conversations(writer):
                _write_anew(writer, conversation, account.name, Directories(now), random)

    store.write(change)


def _write_anew(
    writer: Writer, key: bytes, me: str, directories: Directories, random: Random
) -> None:
    """Make those of one's own messages in a conversation anew that have gone to nobody."""
    conversation = get_conversation(writer, key)
    waiting = [message for message in history.load_messages(writer, key) if _waits(message)]
    for message in reversed(waiting):
        history.replaced_as_parent(writer, message)
        for who, _state in message.recipients:
            if job := job_of(writer, message, who):
                delivery_queue.drop_copy(writer, job)
        share_content(writer, message.content.id)
        history.remove_message(writer, message)
    for message in waiting:
        if conversation is not None and message.origin is not None:
            _make(writer, conversation, message, message.origin.digest, me, directories, random)


def _waits(message: Message) -> bool:
    states = {state for _who, state in message.recipients}
    return states == {Delivery.QUEUED}


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
