"""What strangers had sent, of format 2, as requests of format 8.

A body has less room now: a message of which all parts are here is cut into other parts; of another
one, which nobody can complete, the parts stay that have room. A stranger has written them, and what
fits nowhere is left out: nothing of it may stop the account.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cbfs.earlier.old_records import OldPart, OldRequest
from cbfs.storage.encoding import pack
from cbfs_common.errors import DecodeError, LimitError
from cbfs_common.messages.body import Part, encode_part, part_capacity
from cbfs_common.messages.conversation import Lifetime, carried_on, end_of
from cbfs_common.person import Person

_NO_SESSION = bytes(16)


@dataclass(frozen=True, slots=True)
class StrangersRequest:
    """A record of what ``sender`` has sent, and when that ends (milliseconds since 1970, 0 for
    never)."""

    sender: str
    record: bytes
    ends: int


def bring_requests(old: Iterable[OldRequest], directory: bytes) -> list[StrangersRequest]:
    """The requests of people of the name directory (16)."""
    messages: dict[tuple[str, OldPart], list[tuple[int, OldPart]]] = {}
    for each in old:
        if each.part is not None:
            # parts belong together that say the same of the message, not only its id
            key = each.sender, replace(each.part, number=0, chunk=b"")
            messages.setdefault(key, []).append((each.received, each.part))
    found: list[StrangersRequest] = []
    for (sender, _message), parts in messages.items():
        received = parts[0][0]
        for part in _parts([part for _received, part in parts], directory):
            try:
                record = pack(sender, received, encode_part(part), _NO_SESSION)
            except (LimitError, DecodeError):
                continue
            ends = end_of(part.lifetime, received, waits=False)
            found.append(StrangersRequest(sender, record, ends))
    return found


def _parts(old: list[OldPart], directory: bytes) -> list[Part]:
    """A message, or what is here of it, as parts of now."""
    by_number = {part.number: part for part in old}
    first = old[0]
    people = tuple(Person(directory, name) for name in first.participants)
    # it followed from names alone: its sender goes on from it, once in a directory of now
    conversation, root = carried_on(first.conversation, people, first.subject)
    if len(by_number) != first.count:
        shares = [(number, first.count, part.chunk) for number, part in sorted(by_number.items())]
    else:
        content = b"".join(part.chunk for _number, part in sorted(by_number.items()))
        size = part_capacity(people, first.subject, first.file_name)
        starts = range(0, len(content), size) or range(1)
        shares = [(n, len(starts), content[s : s + size]) for n, s in enumerate(starts)]
    return [
        Part(
            salt=first.id,
            conversation=conversation,
            parents=(),
            participants=people,
            subject=first.subject,
            date=first.date,
            file_name=first.file_name,
            number=number,
            count=count,
            size=first.size,
            digest=first.digest,
            chunk=chunk,
            bundle=b"",
            folder=first.folder,
            lifetime=Lifetime(*first.lifetime),
            root=root,
        )
        for number, count, chunk in shares
    ]
