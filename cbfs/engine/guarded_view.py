"""What the engine tells the mount that looks, if any."""

from collections.abc import Iterable

from cbfs.interface import NullView, View
from cbfs.messages.model import Conversation, Message
from cbfs.storage.faults import harmless
from cbfs_common.errors import CbfsError


class GuardedView:
    """The view that is attached, if any: what goes wrong there is no matter of the engine's."""

    def __init__(self) -> None:
        self._view: View = NullView()

    def attach(self, view: View) -> None:
        """``view`` is told of news from now on."""
        self._view = view

    def conversation_added(self, conversation: Conversation) -> None:
        """A conversation is new, or came back."""
        with harmless():
            self._view.conversation_added(conversation)

    def message_added(self, message: Message) -> None:
        """A message has arrived."""
        with harmless():
            self._view.message_added(message)

    def message_changed(self, message: Message) -> None:
        """The states of a message's recipients have moved on."""
        with harmless():
            self._view.message_changed(message)

    def conversation_moved(self, old: Conversation, new: Conversation) -> None:
        """A conversation's folder has another name."""
        with harmless():
            self._view.conversation_moved(old, new)

    def conversation_changed(self, conversation: Conversation) -> None:
        """Somebody has left a conversation, or it goes on in another one."""
        with harmless():
            self._view.conversation_changed(conversation)

    def conversation_goes_on(self, old: Conversation, new: Conversation) -> None:
        """A conversation goes on in a new one, in the folder that it had under outbox/."""
        with harmless():
            self._view.conversation_goes_on(old, new)

    def messages_renamed(self, messages: Iterable[Message]) -> None:
        """Messages have other names, in the same folders."""
        with harmless():
            self._view.messages_renamed(messages)

    def message_ended(self, message: Message) -> None:
        """A message's lifetime is over, and it is deleted."""
        with harmless():
            self._view.message_ended(message)

    def contact_changed(self, name: str) -> None:
        """There is a new contact, or something of one, or of their request, is new."""
        with harmless():
            self._view.contact_changed(name)

    def line_refused(self, error: CbfsError) -> None:
        """A line that the user has pasted adds nobody."""
        with harmless():
            self._view.line_refused(error)

    def unknown_names(self, names: frozenset[str]) -> None:
        """The directory says, with proof, that nobody has these names."""
        with harmless():
            self._view.unknown_names(names)

    def directories_changed(self) -> None:
        """Other name directories are followed."""
        with harmless():
            self._view.directories_changed()

    def retry(self) -> None:
        """What ended in NotYet may be tried again."""
        with harmless():
            self._view.retry()

    def status_changed(self) -> None:
        """``Engine.report`` gives something new."""
        with harmless():
            self._view.status_changed()
