"""What message.json, folder.json and conversation.json hold. Made with msgpack and
tests/support/protocol_naive.py, without cbfs_common; see tests.vectors.make."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgpack

from tests.support.protocol_naive import derive, fixed
from tests.vectors.cases import Case, File, case, cases

HELLO = blake2b(b"hello", digest_size=32).digest()
HERE, THERE = b"h" * 16, b"t" * 16
"""Two directories."""

ALICE, BOB, CAROL = HERE + b"alice", THERE + b"bob", HERE + b"carol"
REF, OTHER_REF = fixed("a message", 32), fixed("another message", 32)
LISTS = ("received", "wanted", "offered", "taken_back")


def people(*names: str) -> list[bytes]:
    """People of one directory as a body has them."""
    return [HERE + name.encode() for name in names]


def packed(value: object) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


def part(**changes: Any) -> list[Any]:
    """The fields of a good part, changed by name."""
    fields: dict[str, Any] = {
        "version": 1,
        "kind": 1,
        "salt": fixed("salt", 16),
        "conversation": fixed("conversation", 16),
        "parents": [b"\1" + fixed("parent", 32)],
        "participants": [ALICE, BOB],
        "subject": "Grüße",
        "date": 1_790_000_000_000,
        "file_name": "note.txt",
        "number": 0,
        "count": 1,
        "size": 5,
        "digest": HELLO,
        "chunk": b"hello",
        "bundle": b"",
        "lifetime": 604_800,
        "change": 3,
        "note": [[], [], [], []],
        "root": b"",
    }
    assert set(changes) <= set(fields)
    return list((fields | changes).values())


def hash_of(fields: list[Any], sender: bytes) -> bytes:
    """Of the message that ``sender`` has sent this part of."""
    said = [*fields[1:4], sender, *fields[4:9], *fields[11:13], *fields[15:17], fields[18]]
    return derive(b"", "message", packed(said), 32)


def part_case(name: str, sender: bytes = ALICE, **changes: Any) -> Case:
    fields = part(**changes)
    names = ["version", "kind", "salt", "conversation", "parents", "participants", "subject"]
    names += ("date", "file_name", "number", "count", "size", "digest", "chunk", "bundle")
    told = dict(zip((*names, "lifetime", "change", "note", "root"), fields, strict=True))
    told["parents"] = [[fields[5][each[0]], each[1:]] for each in told["parents"]]
    told |= dict(zip(LISTS, told.pop("note"), strict=True))
    del told["version"]
    digest = hash_of(fields, sender)
    return case(name, body=packed(fields), sender=sender, **told, hash=digest, id=digest[:16])


SIZE = 2**32
DIGEST = fixed("tree", 32)


def blob(kind: int = 5, size: int = SIZE, said: int = SIZE, of: bytes = DIGEST) -> dict[str, Any]:
    """What a part says of a blob; its reference says ``said`` and ``of``."""
    address = fixed("server", 32) + (443).to_bytes(2, "big") + b"example.org"
    reference = fixed("secret", 32) + of + said.to_bytes(8, "big") + address
    return {"kind": kind, "size": size, "digest": DIGEST, "chunk": reference}


def good_parts() -> list[Case]:
    many = people(*(f"u{i:03}" for i in range(50)))
    parents = [b"\0" + bytes([i]) * 32 for i in range(16)]
    return [
        part_case("of a message in one part"),
        part_case("by the other one", sender=BOB),
        part_case("nothing that may be empty", parents=[], subject="", file_name="", size=0,
                  chunk=b"", digest=blake2b(digest_size=32).digest(), lifetime=0, change=0),
        part_case("the first of three", count=3, size=11),
        part_case("the last of three", number=2, count=3, size=11, chunk=b"!"),
        part_case("the last as long as the others", number=2, count=3, size=15),
        part_case("of one directory", participants=people("alice", "bob")),
        part_case("all people and parents that there may be", participants=many, parents=parents,
                  sender=many[49]),
        part_case("all that is longest", subject="x" * 200, file_name="é" * 127 + "x",
                  date=253_402_300_799_999, bundle=bytes(3_072), lifetime=366 * 86_400,
                  change=2**32 - 1),
        part_case("the shortest lifetime", lifetime=10, change=1),
        part_case("a lifetime that was taken away", lifetime=0, change=2),
        part_case("the largest file", number=16_383, count=16_384, size=2**26, chunk=bytes(4_096)),
        part_case("a folder", kind=3, file_name="photos"),
        part_case("one of a conversation that goes on", root=fixed("root", 16)),
        part_case("by which its sender leaves", kind=4, file_name=""),
        part_case("a blob", **blob()),
        part_case("a folder that is a blob", file_name="photos", **blob(6, 2**20 + 1, 2**20 + 1)),
        part_case("a note with it", note=[[REF], [OTHER_REF], [], [REF]]),
        part_case("256 messages in its note", note=[[fixed(f"{n}", 32) for n in range(256)], [],
                                                    [], []]),
    ]  # fmt: skip


def wrong_parts() -> list[Case]:
    changes: dict[str, dict[str, Any]] = {
        "kind true": {"kind": True},
        "version a text": {"version": "1"},
        "salt short": {"salt": bytes(15)},
        "salt text": {"salt": "0123456789abcdef"},
        "conversation long": {"conversation": bytes(17)},
        "17 parents": {"parents": [b"\1" + bytes([i] * 32) for i in range(17)]},
        "parent twice": {"parents": [bytes(33), b"\1" + bytes(32)]},
        "parent of nobody": {"parents": [b"\2" + bytes(32)]},
        "parent without an author": {"parents": [bytes(32)]},
        "one participant": {"participants": [ALICE]},
        "51 participants": {"participants": people(*(f"u{i:03}" for i in range(51)))},
        "participants not sorted": {"participants": [BOB, ALICE]},
        "participant twice": {"participants": [BOB, BOB]},
        "participant no name": {"participants": people("../x", "alice")},
        "participants a text": {"participants": "alice"},
        "participant of no directory": {"participants": [b"alice", b"bob"]},
        "participant a text": {"participants": ["a" * 21, "b" * 21]},
        "participants sorted by their names": {
            "participants": [THERE + b"alice", HERE + b"bob"]
        },
        "participant not ASCII": {"participants": [HERE + "zoë".encode(), BOB]},
        "subject too long": {"subject": "x" * 201},
        "subject bytes": {"subject": b"x"},
        "file name too long": {"file_name": "é" * 128},
        "date negative": {"date": -1},
        "date after the year 9999": {"date": 253_402_300_800_000},
        "number at count": {"number": 1},
        "number true": {"number": True, "count": 2, "size": 10},
        "count 0": {"count": 0},
        "count 16385": {"count": 16_385, "size": 5 * 16_385},
        "size other than chunk": {"size": 6},
        "size too large": {"number": 16_383, "count": 16_384, "size": 2**26 + 1,
                           "chunk": bytes(4_098)},
        "empty part": {"count": 2, "size": 5, "chunk": b""},
        "last part empty": {"number": 1, "count": 2, "size": 5, "chunk": b""},
        "last part longer": {"number": 1, "count": 2, "size": 9},
        "last part uneven": {"number": 2, "count": 3, "size": 16},
        "parts that leave nothing for the last": {"count": 2, "size": 5},
        "parts too short for the last": {"count": 2, "size": 11},
        "digest short": {"digest": bytes(31)},
        "chunk text": {"chunk": "hello"},
        "bundle too long": {"bundle": bytes(3_073)},
        "folder without a name": {"kind": 3, "file_name": ""},
        "lifetime too short": {"lifetime": 9},
        "lifetime too long": {"lifetime": 366 * 86_400 + 1},
        "lifetime negative": {"lifetime": -1},
        "lifetime true": {"lifetime": True},
        "lifetime that nobody set": {"change": 0},
        "change over 32 bits": {"change": 2**32},
        "change a text": {"change": "3"},
        "root short": {"root": bytes(15)},
        "root a text": {"root": ""},
        "leaving with a file name": {"kind": 4},
        "leaving in two parts": {"kind": 4, "file_name": "", "count": 2, "size": 6},
        "blob of another size": blob(said=SIZE - 1),
        "blob of another digest": blob(of=bytes(32)),
        "blob of no bytes": blob(size=0, said=0),
        "blob too small": blob(size=2**20, said=2**20),
        "blob too large": blob(size=SIZE + 1, said=SIZE + 1),
        "blob in two parts": blob() | {"count": 2},
        "blob without a reference": blob() | {"chunk": b"hello"},
        "blob folder without a name": blob(6) | {"file_name": ""},
        "note of three lists": {"note": [[], [], []]},
        "note of something else": {"note": [[], [], [], 0]},
        "257 messages in its note": {"note": [[fixed(f"{n}", 32) for n in range(256)], [REF], [],
                                              []]},
    }  # fmt: skip
    good = packed(part())
    raw = {
        "empty": b"",
        "nil": b"\xc0",
        "an empty array": b"\x90",
        "a version alone": b"\x91\x01",
        "truncated": good[:-1],
        "trailing byte": good + b"\0",
        "a map": packed({}),
        "subject not UTF-8": good.replace("Grüße".encode(), b"Gr\xff\xff\xff\xffe"),
        "a field more": packed([*part(), 0]),
        "a field less": packed(part()[:-1]),
        "too long": good + bytes(12_710),
        "number not in its shortest form": good.replace(b"\1\5\xc4", b"\1\xcc\5\xc4"),
    }  # fmt: skip
    bad = {name: packed(part(**change)) for name, change in changes.items()} | raw
    return cases("body", bad, sender=ALICE, error="malformed")


def later_parts() -> list[Case]:
    later = {
        "version 0": packed(part(version=0)),
        "version 2": packed(part(version=2)),
        "version 2, of other fields": packed([2, 1]),
        "kind 0": packed(part(kind=0)),
        "kind 7": packed(part(kind=7)),
        "kind 99": packed([1, 99]),
    }
    return cases("body", later, sender=ALICE, error="later")


def same_parts() -> list[Case]:
    """Pairs of parts: of one message, or of two."""
    first = packed(part(count=3, size=11))
    same: dict[str, dict[str, Any]] = {
        "number and chunk": {"number": 2, "count": 3, "size": 11, "chunk": b"!"},
        "bundle": {"count": 3, "size": 11, "bundle": b"x"},
        "note": {"count": 3, "size": 11, "note": [[REF], [], [], []]},
    }
    other: dict[str, dict[str, Any]] = {
        "kind": {"kind": 3},
        "salt": {"salt": bytes(16)},
        "conversation": {"conversation": bytes(16)},
        "parents": {"parents": []},
        "author of a parent": {"parents": [b"\0" + fixed("parent", 32)]},
        "participants": {"participants": [ALICE, THERE + b"bobby"]},
        "directory of a participant": {"participants": people("alice", "bob")},
        "subject": {"subject": "x"},
        "date": {"date": 0},
        "file name": {"file_name": "x"},
        "size": {"size": 12},
        "digest": {"digest": bytes(32)},
        "lifetime": {"lifetime": 10},
        "change": {"change": 4},
        "root": {"root": bytes(16)},
    }
    made = [(name, changes, True) for name, changes in same.items()]
    made += [(name, {"count": 3, "size": 11, **each}, False) for name, each in other.items()]
    return [
        case(name, one=first, other=packed(part(**changes)), same=is_same)
        for name, changes, is_same in made
    ]


def note(**changes: Any) -> list[Any]:
    fields: dict[str, Any] = {"version": 1, "kind": 2} | {key: [] for key in LISTS}
    fields |= {"bundle": b""}
    assert set(changes) <= set(fields)
    return list((fields | changes).values())


def notes() -> list[Case]:
    refs = [fixed(f"{n}", 32) for n in range(256)]
    right: dict[str, dict[str, Any]] = {
        "empty": {},
        "one of each": {"received": [REF], "wanted": [OTHER_REF], "offered": refs[:1],
                        "taken_back": refs[1:3]},
        "one message in two lists": {"received": [REF], "wanted": [REF]},
        "256 in all": {"received": refs[:100], "wanted": refs[100:150], "offered": refs[150:200],
                       "taken_back": refs[200:]},
        "the longest bundle": {"bundle": bytes(3_072)},
    }  # fmt: skip
    wrong: dict[str, dict[str, Any]] = {
        "257 in all": {"received": refs, "taken_back": [REF]},
        "one twice in a list": {"wanted": [REF, REF]},
        "an id alone": {"wanted": [REF[:16]]},
        "an id of 33 bytes": {"offered": [REF + b"x"]},
        "a text for an id": {"received": ["x" * 32]},
        "a text for a list": {"received": "x"},
        "nil for a list": {"taken_back": None},
        "bundle of 3073 bytes": {"bundle": bytes(3_073)},
        "bundle a text": {"bundle": ""},
    }
    made = []
    for name, changes in right.items():
        told = dict(zip((*LISTS, "bundle"), note(**changes)[2:], strict=True))
        made.append(case(name, body=packed(note(**changes)), **told))
    raw = {"a field more": packed([*note(), 0]), "a field less": packed(note()[:-1])}
    bad = {name: packed(note(**changes)) for name, changes in wrong.items()} | raw
    return (
        made
        + cases("body", bad, error="malformed")
        + [case("version 2", body=packed(note(version=2)), error="later")]
    )


def message() -> File:
    parts = good_parts() + wrong_parts() + later_parts()
    return {"part": parts, "same message": same_parts(), "note": notes()}


def folder_table(rows: object) -> bytes:
    """The beginning of a folder's content, of whatever rows."""
    table = packed(rows)
    return len(table).to_bytes(4, "big") + table


def folder() -> File:
    rows = [[0, "a.txt", 5], [0, "deep", None], [2, "b", 0], [2, "Grüße", 7], [0, "empty", None]]
    good = folder_table(rows)
    deep = [[depth, "d", None] for depth in range(15)]
    full = [[0, f"{i:x}", 0] for i in range(4_096)]
    made = [
        _folder("a tree", rows, [0, 5, 5, 5, 12], 12),
        _folder("as deep as it may be", [*deep, [15, "f", 12]], [0] * 16, 12),
        _folder("as many as there may be", full, [0] * 4_096, 0),
        _folder("one name in two folders", [[0, "x", None], [1, "x", 3]], [0, 0], 3),
        _folder("the longest name", [[0, "é" * 127 + "x", 12]], [0], 12),
        _folder("the largest file", [[0, "x", 2**26 - 13]], [0], 2**26 - 13),
    ]
    made += [
        case(name, head=head, size=len(head) + 12, error="malformed")
        for name, head in _wrong_tables(rows).items()
    ]
    lengths = (("a byte too many", 13), ("a byte too few", 11), ("nothing behind", 0))
    made += [case(n, head=good, size=len(good) + size, error="malformed") for n, size in lengths]
    return {"folder": made}


def _folder(name: str, rows: list[list[Any]], starts: list[int], size: int) -> Case:
    head = folder_table(rows)
    return case(name, head=head, size=len(head) + size, rows=rows,
                starts=[len(head) + start for start in starts])  # fmt: skip


def _wrong_tables(rows: list[list[Any]]) -> dict[str, Any]:
    good = folder_table(rows)
    deep = [[depth, "d", None] for depth in range(16)]

    def other(at: int, *row: object) -> bytes:
        return folder_table([*rows[:at], list(row), *rows[at + 1 :]])

    return {
        "empty": b"",
        "no table": bytes(4),
        "shorter than it says": good[:-1],
        "longer than it says": good + b"\0",
        "a table too long": (2**20 + 1).to_bytes(4, "big"),
        "a map": folder_table({}),
        "no entries": folder_table([]),
        "no file": folder_table([[0, "a", None]]),
        "a row too short": folder_table([[0, "a"]]),
        "a row too long": folder_table([[0, "a", 5, 0]]),
        "parent a file": other(2, 1, "b", 0),
        "parent itself": other(2, 3, "b", 0),
        "parent later": other(2, 5, "b", 0),
        "parent negative": other(2, -1, "b", 0),
        "parent true": other(2, True, "b", 0),
        "name twice": other(3, 2, "b", 7),
        "name empty": other(3, 2, "", 7),
        "name .": other(3, 2, ".", 7),
        "name ..": other(3, 2, "..", 7),
        "name with a slash": other(3, 2, "../x", 7),
        "name with a NUL": other(3, 2, "x\0", 7),
        "name too long": other(3, 2, "é" * 128, 7),
        "name bytes": other(3, 2, b"x", 7),
        "name not UTF-8": good.replace("Grüße".encode(), b"Gr\xff\xff\xff\xffe"),
        "size negative": other(3, 2, "x", -7),
        "size true": other(3, 2, "x", True),
        "size too large": folder_table([[0, "x", 2**26 + 1]]),
        "too deep": folder_table([*deep, [16, "f", 12]]),
        "too many": folder_table([[0, f"{i:x}", 0] for i in range(4_097)]),
    }


def conversation() -> File:
    return {
        "id": [_id(name, people, subject, number) for name, people, subject, number in (
            ("the first of two people", [ALICE, BOB], "Grüße", 0),
            ("the last that is derived", [ALICE, BOB], "Grüße", 255),
            ("without a subject", [ALICE, BOB], "", 0),
            ("of one directory", people("alice", "bob"), "Grüße", 0),
            ("of 50 people", people(*(f"u{i:03}" for i in range(50))), "x" * 200, 1),
        )],
        "random id": [case("first bit set", random=b"\xff" * 16, id=b"\x7f" + b"\xff" * 15),
                      case("first bit not set", random=bytes(16), id=bytes(16))],
        "may have the id": _fitting(),
        "id of one that goes on": [
            case(name, root=root, participants=people, subject=subject,
                 id=_going_on(root, people, subject))
            for name, root, people, subject in (
                ("with more people", _derived([ALICE, BOB], "", 0), [ALICE, CAROL, BOB], ""),
                ("from a random id", bytes(16), [ALICE, BOB], "Grüße"),
                ("50 people", b"\xff" * 16, people(*(f"u{i:03}" for i in range(50))), "x" * 200),
            )
        ],
        "may go on under the id": _may_go_on(),
        "lifetime taken over": _taken_over(),
        "lifetime set": [
            case(name, seconds=seconds, change=change, wanted=wanted, seconds_after=after,
                 change_after=number)
            for name, seconds, change, wanted, after, number in (
                ("for the first time", 0, 0, 60, 60, 1),
                ("another one", 60, 1, 3_600, 3_600, 2),
                ("for ever again", 60, 1, 0, 0, 2),
                ("the same once more", 60, 7, 60, 60, 7),
                ("when the numbers are used up", 60, 2**32 - 1, 10, 10, 2**32 - 1),
            )
        ],
        "end": [
            case(name, seconds=seconds, now=now, waits=waits, end=end)
            for name, seconds, now, waits, end in (
                ("for ever", 0, 10**12, False, 0),
                ("for ever, while it waits", 0, 10**12, True, 0),
                ("when it is there", 10, 10**12, False, 10**12 + 10_000),
                ("while it waits at its sender", 10, 10**12, True, 10**12 + 10_000 + 604_800_000),
            )
        ],
    }  # fmt: skip


def _derived(people: list[bytes], subject: str, number: int) -> bytes:
    data = bytes([len(people)])
    data += b"".join(each[:16] + bytes([len(each) - 16]) + each[16:] for each in people)
    data += number.to_bytes(2, "big") + subject.encode()
    derived = derive(b"", "talk id", data, 16)
    return bytes([derived[0] | 0x80]) + derived[1:]


def _going_on(root: bytes, people: list[bytes], subject: str) -> bytes:
    said = b"".join(each[:16] + bytes([len(each) - 16]) + each[16:] for each in people)
    data = root + bytes([len(people)]) + said + subject.encode()
    derived = derive(b"", "talk on", data, 16)
    return bytes([derived[0] | 0x80]) + derived[1:]


def _may_go_on() -> list[Case]:
    root, three, subject = _derived([ALICE, BOB], "lunch", 0), [ALICE, CAROL, BOB], "lunch"
    made = {
        "its own": (_going_on(root, three, subject), True),
        "of other people": (_going_on(root, [ALICE, BOB], subject), False),
        "of another root": (_going_on(bytes(16), three, subject), False),
        "of another subject": (_going_on(root, three, ""), False),
        "one that is begun": (_derived(three, subject, 0), False),
        "the root's": (root, False),
        "random, without the first bit": (bytes(16), False),
    }
    return [
        case(name, id=id, root=root, participants=three, subject=subject, may=may)
        for name, (id, may) in made.items()
    ]


def _id(name: str, people: list[bytes], subject: str, number: int) -> Case:
    return case(name, participants=people, subject=subject, number=number,
                id=_derived(people, subject, number))  # fmt: skip


def _fitting() -> list[Case]:
    two, subject = [ALICE, BOB], "lunch"
    first = _derived(two, subject, 0)
    made = {
        "the first": (first, True),
        "the last that is derived": (_derived(two, subject, 255), True),
        "one more": (_derived(two, subject, 256), False),
        "random, without the first bit": (bytes([first[0] & 0x7F]) + first[1:], True),
        "random, with the first bit": (b"\x80" + bytes(15), False),
        "of one that goes on": (_going_on(first, two, subject), False),
        "of another subject": (_derived(two, "dinner", 0), False),
        "of other people": (_derived([ALICE, THERE + b"carol"], subject, 0), False),
        "of people of other directories": (
            _derived(people("alice", "bob"), subject, 0),
            False,
        ),
        "of the people in another order": (_derived(two[::-1], subject, 0), False),
    }
    return [
        case(name, id=id, participants=two, subject=subject, may=may)
        for name, (id, may) in made.items()
    ]


def _taken_over() -> list[Case]:
    """(known, told, after), each as seconds and number of changes."""
    known = (3_600, 5)
    made: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
        "a later change": (known, (60, 6), (60, 6)),
        "a later change to for ever": (known, (0, 6), (0, 6)),
        "an earlier change": (known, (60, 4), known),
        "the same": (known, known, known),
        "two at once, the shorter": (known, (60, 5), (60, 5)),
        "two at once, the longer": (known, (7_200, 5), known),
        "two at once, for ever": (known, (0, 5), known),
        "two at once, after for ever": ((0, 5), (60, 5), (60, 5)),
        "as far ahead as it may be": (known, (60, 1_005), (60, 1_005)),
        "too far ahead": (known, (60, 1_006), known),
        "the first change": ((0, 0), (60, 1), (60, 1)),
        "never changed": ((0, 0), (0, 0), (0, 0)),
        "the last number": ((60, 2**32 - 2), (10, 2**32 - 1), (10, 2**32 - 1)),
    }
    return [
        case(name, seconds=a[0], change=a[1], told_seconds=b[0], told_change=b[1],
             seconds_after=c[0], change_after=c[1])
        for name, (a, b, c) in made.items()
    ]  # fmt: skip


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "message": message,
    "folder": folder,
    "conversation": conversation,
}
