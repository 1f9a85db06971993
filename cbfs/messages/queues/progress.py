"""How far files are that travel in several parts, what is missing, and what cannot be read: for
``status`` and extended attributes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from cbfs.messages import order
from cbfs.messages.conversations import label
from cbfs.messages.file_names import moment, shown_file_name
from cbfs.messages.history import get_message
from cbfs.messages.model import Delivery, Message
from cbfs.messages.queues import blobs
from cbfs.messages.queues.blobs import Blob, BlobStage
from cbfs.messages.queues.delivery_queue import first_job, job_of, parts_delivered
from cbfs.messages.queues.incomplete import all_incomplete
from cbfs.storage.store import Reader

SHOWN_MAX = 16
"""Arriving files that ``status`` lists."""


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``count`` parts of a file have been delivered to, or have come from, ``who``."""

    who: str
    conversation: bytes
    file_name: str
    size: int
    done: int
    count: int

    @property
    def share(self) -> str:
        """``34 % of 67,108,864 bytes``."""
        return f"{100 * self.done // self.count} % of {self.size:,} bytes"


def sending(reader: Reader, recipient: str) -> Progress | None:
    """The file of several parts that is on its way to this recipient, if it is one's turn."""
    job = first_job(reader, recipient)
    if job is None or job.count < 2:
        return None
    done = parts_delivered(reader, job)
    return Progress(recipient, job.conversation, job.file_name, job.content.size, done, job.count)


def sent_share(reader: Reader, message: Message) -> str:
    """``bob: 34 % of 67,108,864 bytes``, for all to whom a message of several parts is still on
    its way; ``34 % of 67,108,864 bytes`` of a blob that is fetched, or that one's own server is
    given; else empty."""
    blob = blobs.get(reader, message.content.id)
    if blob is not None:
        return _of_blob(message, blob).share if blob.state in _ON_ITS_WAY else ""
    lines = []
    for who, state in message.recipients:
        job = job_of(reader, message, who) if state is Delivery.QUEUED else None
        if job is not None and job.count > 1:
            done = parts_delivered(reader, job)
            share = Progress(who, b"", "", job.content.size, done, job.count).share
            lines.append(f"{who}: {share}")
    return ", ".join(lines)


_ON_ITS_WAY = (BlobStage.PUTTING, BlobStage.FETCHING)


def _of_blob(message: Message, blob: Blob) -> Progress:
    return Progress(
        message.sender,
        message.conversation,
        message.file_name,
        blob.size,
        blob.done,
        blob.size,
    )


def _blobs(reader: Reader, state: BlobStage) -> Iterator[tuple[Message, Progress]]:
    for blob in blobs.every(reader, state):
        message = get_message(reader, blob.conversation, blob.serial)
        if message is not None:
            yield message, _of_blob(message, blob)


def putting_lines(reader: Reader) -> tuple[str, ...]:
    """A line for each file that one's own server is given, up to SHOWN_MAX."""
    return tuple(
        f"{message.name} to your server: {found.share}"
        for message, found in islice(_blobs(reader, BlobStage.PUTTING), SHOWN_MAX)
    )


def arriving(reader: Reader, conversation: bytes | None = None) -> Iterator[Progress]:
    """Files of which something has come, and not all, in one conversation or in all."""
    for _message, found in _blobs(reader, BlobStage.FETCHING):
        if conversation in (None, found.conversation):
            yield found
    for message in all_incomplete(reader):
        place, seen = message.conversation, message.seen
        if conversation in (None, place):
            name = message.file_name
            yield Progress(message.sender, place, name, message.size, sum(seen), len(seen))


def arriving_lines(reader: Reader) -> tuple[str, ...]:
    """A line for each file that is arriving, up to SHOWN_MAX."""
    parts = islice(arriving(reader), SHOWN_MAX)
    return tuple(
        f"{shown_file_name(p.file_name) if p.file_name else 'a file'} from {label(reader, p.who)}:"
        f" {p.share}"
        for p in parts
    )


def counted(
    counts: dict[str, int], under_way: dict[str, Progress | None], label: Callable[[str], str]
) -> tuple[str, ...]:
    """A line for each recipient, shown as ``label`` says; with it the file that is under way."""
    lines = []
    for recipient, count in sorted(counts.items()):
        now = under_way.get(recipient)
        share = f"; {now.file_name or 'a file'}: {now.share}" if now else ""
        lines.append(f"{count} message{'s' if count > 1 else ''} to {label(recipient)}{share}")
    return tuple(lines)


LOST_LOOKED_AT = 1_024
"""Messages that others name and that are not here, of which is looked whose they are."""


def lost_own(reader: Reader, me: str) -> dict[bytes, dict[bytes, tuple[str, ...]]]:
    """Messages of one's own that others answer and that are not here, as this account was put back
    to a time before them: by conversation, the id of each and who has asked for it."""
    lost: dict[bytes, dict[bytes, tuple[str, ...]]] = {}
    for place, id_ in islice(order.all_waited_for(reader), LOST_LOOKED_AT):
        known = order.waiting(reader, place, id_)
        named = (get_message(reader, place, serial) for serial in known.serials) if known else ()
        parents = (parent for message in named if message for parent in message.missing)
        if known and any((parent.id, parent.author) == (id_, me) for parent in parents):
            lost.setdefault(place, {})[id_] = known.lacking
    return lost


def lost_line(lost: dict[bytes, tuple[str, ...]], place: str, label: Callable[[str], str]) -> str:
    """Of such messages in the conversation's folder ``place``. ``label``: what people are shown
    as."""
    count, asked = len(lost), [lacking for lacking in lost.values() if lacking]
    what, them = ("messages of yours", "them") if count > 1 else ("a message of yours", "it")
    line = (
        f"others in {place} answer {f'{count} ' if count > 1 else ''}{what} that this account has"
        f" not (you wrote {them} after the backup that it was restored from, or they are wrong)"
    )
    if not asked:
        return line
    who = ", ".join(sorted({label(name) for lacking in asked for name in lacking}))
    some = them if len(asked) == count else f"{len(asked)} of them"
    return (
        f"{line}; {who} {'have' if ', ' in who else 'has'} not got {some}: write {them} once more"
    )


def begun_anew_line(since: int, silent: Sequence[str], label: Callable[[str], str]) -> str:
    """Of an account that has lost its sessions at ``since`` (milliseconds), of which these people
    have not heard."""
    who = ", ".join(sorted(map(label, silent)))
    have = "have" if len(silent) > 1 else "has"
    return (
        f"this account began anew on {moment(since):%F}, as it was restored or copied: {who} {have}"
        " not answered since, and may not have what you wrote before (what is here, and has no"
        " receipt, is sent again when they have; what you wrote after the backup is not here)"
    )


def missing_line(count: int, place: str, until: int) -> str:
    """Of messages that others have named, in the conversation's folder ``place``, and that are not
    here: asked for ``until`` (milliseconds) at the latest. Who left one out does not say so."""
    what, them = ("messages are", "them") if count > 1 else ("message is", "it")
    return (
        f"{count} {what} missing in {place}: others are asked for {them} until {moment(until):%F}"
        f" (whoever wrote {them} may have deleted {them}, or left you out, and then nobody answers;"
        " ask them yourself if it matters)"
    )


def in_vain_line(count: int, place: str) -> str:
    """Of messages that others have answered in the conversation's folder ``place``, and that
    whoever has written them has not sent, however often they were asked for."""
    what, them = ("messages", "them") if count > 1 else ("message", "it")
    return (
        f"{count} {what} that others in {place} have answered never came (see its transcript:"
        f" whoever wrote {them} may have lost {them}, left you out, or told you something else"
        " than the others; ask them all)"
    )


def later_lines(count: int, people: list[str]) -> tuple[str, ...]:
    """Lines that say what has come of a later version of the protocol, and from which contacts."""
    if not count:
        return ()
    what, is_, it = ("envelopes", "are", "they are") if count > 1 else ("envelope", "is", "it is")
    whose = f" from {', '.join(people)}" if people else ""
    return (
        f"{count} {what}{whose} {is_} of a later version of the protocol ({it} kept in quarantine/,"
        " and read when a mount begins with a cbfs that knows it: install a newer one)",
    )


def unread_lines(count: int) -> tuple[str, ...]:
    """Lines that say what is in quarantine/, and why, but for what is of a later version."""
    if not count:
        return ()
    what = "envelopes that arrived" if count > 1 else "envelope that arrived"
    return (
        f"{count} {what} cannot be read (anybody can send noise; after a restore some is usual, and"
        " whoever wrote to you sends again what you lack; getfattr -d quarantine/* says why, and"
        " rm quarantine/* ends this line)",
    )
