"""What a person who wants to do harm may put into an envelope: drawn at random from a seed."""

from hashlib import blake2b
from random import Random
from typing import Any

import msgpack

from cbfs_common.limits import (
    BLOB_ABOVE,
    BLOB_SIZE_MAX,
    BODY_MAX,
    BUNDLE_MAX,
    DATE_MAX,
    FILE_NAME_MAX,
    FILE_SIZE_MAX,
    LIFETIME_CHANGE_MAX,
    MESSAGE_LIFETIME_MAX,
    MESSAGE_LIFETIME_MIN,
    NOTE_IDS_MAX,
    PARENTS_MAX,
    PARTICIPANTS_MAX,
    PARTS_MAX,
    SUBJECT_MAX,
)
from cbfs_common.messages.conversation import continued_id
from cbfs_common.messages.folder import TOP, FolderEntry, encode_table
from tests.support.parts import HERE, talk_id

IDS = tuple(bytes([n]) * 16 for n in range(6))
"""Few, so that they repeat."""

CROWD = tuple(sorted({"alice", *(f"p{n:02}x" for n in range(PARTICIPANTS_MAX - 2))}))
WORDS = (
    "", "a", "../../x", "a/b", "..", ".hidden", "-rf", "a\0b", "a\nb", "\u202egpj.exe", "CON",
    "x" * FILE_NAME_MAX, "x" * SUBJECT_MAX, "\u00e9" * (FILE_NAME_MAX // 2), "metadata.toml",
    "transcript", "README", "\U0001f600", "a\u0301", "tmp", "x.error",
)  # fmt: skip
NUMBERS = (
    0, 1, 2, 3, -1, 255, 2**16, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, DATE_MAX,
    DATE_MAX + 1, FILE_SIZE_MAX, FILE_SIZE_MAX + 1, PARTS_MAX, PARTS_MAX + 1, MESSAGE_LIFETIME_MIN,
    MESSAGE_LIFETIME_MAX, MESSAGE_LIFETIME_MAX + 1, LIFETIME_CHANGE_MAX, LIFETIME_CHANGE_MAX + 1,
)  # fmt: skip
TABLE = encode_table(
    [FolderEntry(TOP, "a", 5), FolderEntry(TOP, "b", None), FolderEntry(2, "c", 3)]
)
CONTENTS = (
    b"", b"hello", b"x" * 60, b"\xff\xfe", b"line\nline\r\n", TABLE + b"12345678", TABLE,
    b"\x00\x08\x00\x00", b"\x1b[2J", "e\u0301 \u4e2d\u6587".encode(),
)  # fmt: skip
SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 64, BUNDLE_MAX, BUNDLE_MAX + 1, BODY_MAX)
VALUES: tuple[Any, ...] = (
    *NUMBERS, *WORDS, *map(bytes, SIZES), None, True, False, 0.5, float("nan"), float("inf"), [],
    {}, [[]], {"a": 1}, [None] * 70, ["alice"],
    ["alice", "bob"], ["bob", "alice"], ["ALICE", "con"],
    list(CROWD), [bytes([n // 256, n % 256]) * 8 for n in range(PARENTS_MAX + 1)],
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(2**40),
)  # fmt: skip


def encode(items: list[Any]) -> bytes:
    """A body of these items; nothing when msgpack has no way to say them."""
    try:
        packed: bytes = msgpack.packb(items, unicode_errors="surrogatepass")
    except (ValueError, OverflowError, TypeError):
        return b""
    return packed


def part(random: Random, sender: str, bundle: bytes) -> list[Any]:
    """The items of a part that is right, or nearly, with its fields at their limits."""
    pick = random.choice
    people = pick((
        tuple(sorted({"alice", sender})),
        tuple(sorted({"alice", sender})),
        tuple(sorted({"alice", "bob", sender})),
        tuple(sorted({*CROWD, sender})),
        ("alice", "bob"),
    ))  # fmt: skip
    people = people[:PARTICIPANTS_MAX]
    subject = pick(WORDS)[: SUBJECT_MAX // 2]
    conversation = pick((talk_id(people, subject), talk_id(people, subject, 1), pick(IDS)))
    said = [person.directory + person.name.encode() for person in HERE.people(people)]
    parents = [bytes([random.randrange(len(said))]) + id_ * 2 for id_ in pick(((), IDS[:2]))]
    content = pick(CONTENTS)
    count = pick((1, 1, 1, 2, 3, PARTS_MAX))
    number = random.randrange(min(count, 4))
    share = -(-len(content) // count)
    chunk = content[number * share : (number + 1) * share]
    size = pick((len(content), len(content), len(content), len(chunk) * count, FILE_SIZE_MAX))
    lifetime = pick(((0, 0), (MESSAGE_LIFETIME_MIN, 1), (0, LIFETIME_CHANGE_MAX)))
    name = pick(WORDS)[: FILE_NAME_MAX // 2]
    root = pick((b"", b"", talk_id(("alice", "bob")), pick(IDS)))
    if root and random.random() < 0.8:
        conversation = continued_id(root, HERE.people(people), subject)
    leaving = 4 if count == 1 and not name and random.random() < 0.3 else 1
    kind, digest = pick((1, 1, 3)) if name else leaving, blake2b(content, digest_size=32).digest()
    if random.random() < 0.15:  # a blob, which is nowhere
        kind, number, count = pick((5, 6)), 0, 1
        size = pick((BLOB_ABOVE, BLOB_ABOVE + 1, BLOB_SIZE_MAX))
        said_size = pick((size, size, 0)).to_bytes(8, "big")
        chunk = pick(IDS) * 2 + digest + said_size + bytes(32) + b"\1\2" + b"127.0.0.1"
    return [
        1, kind, pick(IDS), conversation,
        parents, said, subject,
        pick((0, 1_700_000_000_000, 1_900_000_000_000, DATE_MAX)), name, number, count, size,
        digest, chunk, bundle, *lifetime,
        note(random, b"")[2:6],
        root,
    ]  # fmt: skip


def note(random: Random, bundle: bytes) -> list[Any]:
    """The items of a note that is right, or too long."""

    def ids() -> list[bytes]:
        return random.choice((
            [],
            [random.randbytes(32) for _ in range(3)],
            [n.to_bytes(32, "big") for n in range(NOTE_IDS_MAX)],
            [id_ * 2 for id_ in random.sample(IDS, 2)],
        ))  # fmt: skip

    return [1, 2, ids(), ids(), ids(), random.random() < 0.5, bundle]


def spoil(random: Random, items: list[Any]) -> None:
    """Change an item, leave it out, swap or repeat it."""
    at, other = random.randrange(len(items)), random.randrange(len(items))
    match random.choice(("change", "change", "change", "leave out", "swap", "repeat")):
        case "change":
            items[at] = random.choice(VALUES)
        case "leave out" if len(items) > 1:
            del items[at]
        case "swap":
            items[at], items[other] = items[other], items[at]
        case "repeat":
            items.insert(at, items[at])


def body(random: Random, sender: str, bundle: bytes) -> bytes:
    """Anything that fits into an envelope; every second one is as it should be, or nearly."""
    if random.random() < 0.1:
        whole = (b"", b"\xc1", b"\x91" * BODY_MAX, b"\xdf\xff\xff\xff\xff", random.randbytes(64))
        return random.choice(whole)
    items = note(random, bundle) if random.random() < 0.3 else part(random, sender, bundle)
    for _ in range(random.choice((0, 0, 0, 1, 1, 2, 3))):
        spoil(random, items)
    return encode(items)[:BODY_MAX]


def damaged(random: Random, data: bytes) -> bytes:
    """The same bytes with a bit turned, or cut, or with more behind."""
    at = random.randrange(len(data)) if data else 0
    match random.choice(("turn", "cut", "more", "zeros")):
        case "turn" if data:
            return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "zeros":
            return data[:at] + bytes(len(data[at : at + 32])) + data[at + 32 :]
        case _:
            return data + random.randbytes(random.randrange(1, 40))


LOW_ORDER = (
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
    b"\xff" * 32,
)
"""Points that make every shared secret one that all know."""
