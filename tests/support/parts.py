"""Messages as they are sent, each whole in one part."""

from hashlib import blake2b

from cbfs.account.account import SYSTEM_RANDOM
from cbfs_common.messages.body import SALT_SIZE, Part
from cbfs_common.messages.conversation import conversation_id
from cbfs_common.person import Directories, Person
from tests.support.names_naive import DIRECTORY

DATE = 1_800_000_000_000

HERE = Directories(DIRECTORY)


def who(name: str) -> Person:
    """Somebody of the directory of these tests."""
    return HERE.person(name)


def talk_id(people: tuple[str, ...], subject: str = "", number: int = 0) -> bytes:
    """The id of a conversation of people of the directory of these tests."""
    return conversation_id(HERE.people(people), subject, number)


def sole_part(
    text: bytes,
    people: tuple[str, ...],
    *,
    subject: str = "",
    salt: bytes = b"",
    date: int = DATE,
    bundle: bytes = b"",
) -> Part:
    """What an honest client makes of a text. ``salt``: random when it is empty."""
    return Part(
        salt=salt or SYSTEM_RANDOM.token(SALT_SIZE),
        conversation=talk_id(people, subject),
        parents=(),
        participants=HERE.people(people),
        subject=subject,
        date=date,
        file_name="",
        number=0,
        count=1,
        size=len(text),
        digest=blake2b(text, digest_size=32).digest(),
        chunk=text,
        bundle=bundle,
    )
