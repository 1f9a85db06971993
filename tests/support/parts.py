"""Messages as they are sent, each whole in one part."""

from hashlib import blake2b

from cbfs.account.account import SYSTEM_RANDOM
from cbfs_common.messages.body import SALT_SIZE, Part
from cbfs_common.messages.conversation import conversation_id

DATE = 1_800_000_000_000


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
        conversation=conversation_id(people, subject, 0),
        parents=(),
        participants=people,
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
