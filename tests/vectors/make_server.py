"""What server.json holds, from the text of Message server in the specification; see
tests.vectors.make.

MessagePack is written out by hand: what is refused is often what no library writes.
"""

from base64 import b32encode
from collections.abc import Sequence
from hashlib import blake2b

from tests.vectors.cases import Case, File, case

Value = bool | int | bytes | Sequence["Value"]


def head(codes: tuple[int, int, int], size: int) -> bytes:
    for code, n in zip(codes, (1, 2, 4), strict=True):
        if size < 256**n:
            return bytes([code]) + size.to_bytes(n, "big")
    raise AssertionError


def pack(value: Value) -> bytes:
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        n = next(n for n in (1, 2, 4, 8) if value < 256**n)
        return bytes([0xCC + n.bit_length() - 1]) + value.to_bytes(n, "big")
    if isinstance(value, bytes):
        return head((0xC4, 0xC5, 0xC6), len(value)) + value
    size = (
        bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + len(value).to_bytes(2, "big")
    )
    return size + b"".join(map(pack, value))


def fixed(name: str, size: int) -> bytes:
    """Bytes that are named by what they are for: of that size, the first 64 of them noise."""
    return blake2b(name.encode(), digest_size=min(size, 64)).digest().ljust(size, b"\0")


USER, ID, ID2 = fixed("user", 32), fixed("id", 16), fixed("id 2", 16)
KEM, ENVELOPE = fixed("kem", 1_184), fixed("envelope", 16_384)
INVITE, CHALLENGE = fixed("invite", 56), fixed("challenge", 16)
GRANT, TOKEN = fixed("grant", 56), fixed("token", 154)
BLOB, CAPABILITY, CHUNK = fixed("blob", 32), fixed("capability", 32), fixed("chunk", 16_400)
MARK, MARK2 = fixed("mark", 56), fixed("mark 2", 56)


def record(name: str, kind: int) -> bytes:
    start = fixed(name, 16) + bytes([kind]) + (2_000_000_000).to_bytes(8, "big")
    return start + fixed(f"{name} rest", 1_305 - 25)


ONE, TWO, LAST = record("one", 1), record("two", 1), record("last", 2)

REQUESTS: list[tuple[str, int, Sequence[Value]]] = [
    ("CreateAccount", 1, [b"", b"", 0]),
    ("CreateAccount", 1, [INVITE, b"", 0]),
    ("CreateAccount", 1, [b"", CHALLENGE, 2**64 - 1]),
    ("DeleteAccount", 2, []),
    ("UploadPrekeys", 3, [[ONE, LAST], KEM, False]),
    ("UploadPrekeys", 3, [[ONE], KEM, True]),
    ("CountPrekeys", 4, []),
    ("TakePrekey", 5, [USER]),
    ("Deliver", 6, [USER, ENVELOPE]),
    ("List", 7, [b""]),
    ("List", 7, [ID]),
    ("Fetch", 8, [ID]),
    ("Delete", 9, [[]]),
    ("Delete", 9, [[ID, ID2]]),
    ("Delete", 9, [[fixed(f"id {n}", 16) for n in range(20)]]),
    ("Subscribe", 10, []),
    ("GetLimits", 11, []),
    ("SwapMark", 12, [b"", MARK]),
    ("SwapMark", 12, [MARK, MARK2]),
    ("GetTerms", 13, []),
    ("TellVersion", 20, [1]),
    ("TellVersion", 20, [255]),
    ("MakeBlob", 14, [BLOB, 64, 1]),
    ("MakeBlob", 14, [BLOB, 4_096, 21]),
    ("MakeBlob", 14, [BLOB, 262_144, 65_535]),
    ("PutChunk", 15, [BLOB, 0, CHUNK]),
    ("PutChunk", 15, [BLOB, 262_656, CHUNK]),
    ("StatBlob", 16, [BLOB]),
    ("GetChunk", 17, [CAPABILITY, 1]),
    ("GetChunk", 17, [CAPABILITY, 262_656]),
    ("RemoveBlob", 18, [BLOB]),
    ("AskInvite", 19, [GRANT, 0]),
    ("AskInvite", 19, [GRANT, 1_023]),
]
REPLIES: list[tuple[str, int, Sequence[Value]]] = [
    ("Done", 64, []),
    *(("ErrorReply", 65, [code]) for code in range(1, 22)),
    ("PrekeyCount", 66, [127, 2**32 - 1]),
    ("PrekeyCount", 66, [128, 2**64 - 1]),
    ("PrekeyRecord", 67, [ONE, KEM]),
    ("EnvelopeIds", 68, [[], False]),
    ("EnvelopeIds", 68, [[ID, ID2], True]),
    ("Stored", 69, [ENVELOPE]),
    ("ServerLimits", 70, [16_384, 5_184_000, 200]),
    ("LastMark", 71, [b""]),
    ("LastMark", 71, [MARK]),
    ("NewcomerTerms", 72, [False, CHALLENGE, 0]),
    ("NewcomerTerms", 72, [True, CHALLENGE, 0]),
    ("NewcomerTerms", 72, [False, CHALLENGE, 64]),
    ("ServerVersion", 76, [1]),
    ("ServerVersion", 76, [255]),
    ("BlobState", 73, [0, 1]),
    ("BlobState", 73, [262_657, 65_535]),
    ("BlobChunk", 74, [CHUNK]),
    ("Granted", 75, [INVITE, INVITE[::-1], GRANT, b""]),
    ("Granted", 75, [INVITE, INVITE[::-1], GRANT, TOKEN]),
]
PUSHES: list[tuple[str, int, Sequence[Value]]] = [("Arrived", 128, [ID, ENVELOPE])]


def messages(told: list[tuple[str, int, Sequence[Value]]]) -> list[Case]:
    """Each with its place in the list, as there may be several of a kind."""
    return [
        case(f"{number}: {name}", data=pack([kind, *fields]), what=name, fields=list(fields))
        for number, (name, kind, fields) in enumerate(told)
    ]


def refused(side: str) -> list[Case]:
    """What is none of them, as a server or client reads it."""
    wrong: list[tuple[str, str, bytes]] = [
        ("request", "nothing", b""),
        ("request", "an empty array", b"\x90"),
        ("request", "no array", b"\x0b"),
        ("request", "nil", b"\xc0"),
        ("request", "a map", b"\x81\x0b\xc0"),
        ("request", "an empty map", b"\x80"),
        ("request", "a kind that is a flag", b"\x91\xc3"),
        ("request", "a kind that there is not", b"\x91\x63"),
        ("request", "a kind of a reply", b"\x91\x40"),
        ("request", "a field too many", b"\x92\x0b\x00"),
        ("request", "a field too few", b"\x91\x05"),
        ("request", "something behind it", b"\x91\x0b\x00"),
        ("request", "a kind as uint 8", b"\x91\xcc\x0b"),
        ("request", "a kind as int 8", b"\x91\xd0\x0b"),
        ("request", "a kind as uint 64", b"\x91\xcf" + bytes(7) + b"\x0b"),
        ("request", "a kind as float", b"\x91\xca\x41\x30\x00\x00"),
        ("request", "array 16", b"\xdc\x00\x01\x0b"),
        ("request", "array 32", b"\xdd\x00\x00\x00\x01\x0b"),
        ("request", "array 32 of more than there is", b"\xdd\xff\xff\xff\xff\x0b"),
        ("request", "bin 16 of 16 bytes", b"\x92\x08\xc5\x00\x10" + ID),
        ("request", "bin 32 of 16 bytes", b"\x92\x08\xc6\x00\x00\x00\x10" + ID),
        ("request", "str in the place of bin", b"\x92\x08\xb0" + b"x" * 16),
        ("request", "an extension in the place of bin", b"\x92\x08\xd8\x05" + ID),
        ("request", "an id of 15 bytes", pack([8, ID[:15]])),
        ("request", "an id of 17 bytes", pack([8, ID + b"x"])),
        ("request", "a user id of 31 bytes", pack([5, USER[:31]])),
        ("request", "an envelope that is short", pack([6, USER, ENVELOPE[:-1]])),
        ("request", "an envelope that is long", pack([6, USER, ENVELOPE + b"x"])),
        ("request", "List after 15 bytes", pack([7, ID[:15]])),
        ("request", "IDS_MAX + 1 ids", pack([9, [ID] * 901])),
        ("request", "an id in the place of ids", pack([9, ID])),
        ("request", "a blob of no chunks", pack([14, BLOB, 0, 1])),
        ("request", "a blob of 63 chunks", pack([14, BLOB, 63, 1])),
        ("request", "a blob of 4,097 chunks", pack([14, BLOB, 4_097, 1])),
        ("request", "a blob that is too large", pack([14, BLOB, 266_240, 1])),
        ("request", "a blob for no day", pack([14, BLOB, 64, 0])),
        ("request", "a blob for 65,536 days", pack([14, BLOB, 64, 65_536])),
        ("request", "a blob id of 16 bytes", pack([16, ID])),
        ("request", "a chunk behind all others", pack([15, BLOB, 262_657, CHUNK])),
        ("request", "a chunk that is short", pack([15, BLOB, 0, CHUNK[1:]])),
        ("request", "a chunk that is asked for behind all", pack([17, BLOB, 262_657])),
        ("request", "a chunk of a flag", pack([17, BLOB, True])),
        ("request", "no record", pack([3, [], KEM, False])),
        (
            "request",
            "UPLOAD_MAX + 1 records",
            pack([3, [record(str(n), 1) for n in range(13)], KEM, False]),
        ),
        ("request", "a record that is short", pack([3, [ONE[:-1]], KEM, False])),
        ("request", "a record of kind 0", pack([3, [record("one", 0)], KEM, False])),
        ("request", "a record of kind 3", pack([3, [record("one", 3)], KEM, False])),
        ("request", "two records of one id", pack([3, [ONE, ONE], KEM, False])),
        (
            "request",
            "two records of one id and two kinds",
            pack([3, [ONE, record("one", 2)], KEM, False]),
        ),
        ("request", "two last-resort records", pack([3, [LAST, record("x", 2)], KEM, False])),
        ("request", "a kem that is short", pack([3, [ONE], KEM[:-1], False])),
        ("request", "a flag that is a number", pack([3, [ONE], KEM, 0])),
        ("request", "a mark that is short", pack([12, b"", MARK[:-1]])),
        ("request", "no mark in the place of one", pack([12, MARK, b""])),
        ("request", "a seen mark that is short", pack([12, MARK[:-1], MARK])),
        ("request", "no seen mark", pack([12, MARK])),
        ("request", "nil in the place of no mark", b"\x93\x0c\xc0" + pack(MARK)),
        ("request", "CreateAccount without fields", b"\x91\x01"),
        ("request", "an invite that is short", pack([1, INVITE[:-1], b"", 0])),
        ("request", "a challenge that is long", pack([1, b"", CHALLENGE + b"x", 0])),
        ("request", "a number that is a flag", pack([1, b"", b"", False])),
        ("reply", "no challenge", pack([72, False, b"", 0])),
        ("reply", "a flag that is a number", pack([72, 0, CHALLENGE, 0])),
        ("reply", "65 bits", pack([72, False, CHALLENGE, 65])),
        ("reply", "code 0", pack([65, 0])),
        ("reply", "a mark that is long", pack([71, MARK + b"x"])),
        ("reply", "LastMark without a field", b"\x91\x47"),
        ("reply", "a code that there is not", pack([65, 99])),
        ("reply", "a code of -1", b"\x92\x41\xff"),
        ("reply", "a kind of a request", b"\x91\x01"),
        ("reply", "a push", pack([128, ID, ENVELOPE])),
        ("reply", "a number of more than 64 bits, as bytes", pack([66, bytes(9), 0])),
        ("reply", "a number that is a flag", pack([66, True, 0])),
        ("reply", "a number as uint 32 that fits 16", b"\x93\x42\xce\x00\x00\xff\xff\x00"),
        ("reply", "IDS_MAX + 1 ids", pack([68, [ID] * 901, False])),
        ("reply", "Done with a field", b"\x92\x40\x00"),
        ("push", "a reply", b"\x91\x40"),
        ("push", "an id that is short", pack([128, ID[:15], ENVELOPE])),
        (
            "push",
            "bin 32 of an envelope",
            b"\x93\xcc\x80\xc4\x10" + ID + b"\xc6\x00\x00\x40\x00" + ENVELOPE,
        ),
    ]
    return [case(name, data=data, error="malformed") for at, name, data in wrong if at == side]


BITS_12 = 3_693
"""The first number that is a proof of 12 bits: it has 13."""


def work(number: int) -> Case:
    data = number.to_bytes(8, "big") + CHALLENGE + USER + bytes(4_040)
    digest = blake2b(data, digest_size=32, person=b"cbfs1 work").digest()
    bits = len(f"{int.from_bytes(digest, 'big') | 1 << 256:b}"[1:].partition("1")[0])
    return case(f"number {number}", challenge=CHALLENGE, user=USER, number=number, bits=bits)


def invites() -> list[Case]:
    good = "cbfs-server-invite:" + b32encode(USER + INVITE).decode().rstrip("=").lower()
    return [
        case("an invite", text=good, server=USER, invite=INVITE),
        case("in capitals", text=good[:19] + good[19:].upper(), server=USER, invite=INVITE),
        *(
            case(name, text=text, error="malformed")
            for name, text in (
                ("nothing", ""),
                ("no prefix", good[19:]),
                ("the prefix of another kind", good.replace("server-", "")),
                ("cut short", good[:-1]),
                ("longer", good + "aa"),
                ("padded", good + "="),
                ("a letter that there is not", good[:-1] + "1"),
            )
        ),
    ]


def make() -> File:
    return {
        "request": messages(REQUESTS) + refused("request"),
        "reply": messages(REPLIES) + refused("reply"),
        "push": messages(PUSHES) + refused("push"),
        "envelope id": [
            case(f"all bytes are {byte}", envelope=bytes([byte]) * 16_384, id=blake2b(
                bytes([byte]) * 16_384, digest_size=16, person=b"cbfs1 envelope").digest())
            for byte in (0, 255)
        ],
        "work": [work(number) for number in (0, 1, 2**64 - 1, BITS_12)],
        "invite": invites(),
    }  # fmt: skip


FILES = {"server": make}
