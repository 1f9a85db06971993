"""What marks.json holds, from the text of Copies and of SwapMark in the specification; see
tests.vectors.make."""

from collections.abc import Mapping

from tests.support.protocol_naive import aead, derive, fixed
from tests.vectors.cases import Case, File, case

TRANSPORT, OTHER = fixed("transport", 32), fixed("another transport", 32)
HERE, THERE = fixed("instance", 8), fixed("another instance", 8)
CLAIM = 2**32
DAY = 86_400


def salt_of(name: str) -> bytes:
    return fixed(f"salt {name}", 24)


def sealed(salt: bytes, plain: bytes, transport: bytes = TRANSPORT) -> bytes:
    key = derive(transport, "mark key", b"", 32)
    return salt + aead(derive(key, "mark", salt, 44), plain)


def mark(counter: int, instance: bytes = HERE, name: str = "", **more: bytes) -> bytes:
    return sealed(salt_of(name), counter.to_bytes(8, "big") + instance, **more)


def marks() -> File:
    return {
        "made": [
            case(name, transport=TRANSPORT, salt=salt_of(name), counter=counter, instance=HERE,
                 mark=mark(counter, name=name))
            for name, counter in (("the first", 1), ("after a claim", CLAIM + 1))
        ],
        "mark": _read(),
        "swap": _swapped(),
        "found": _found(),
    }  # fmt: skip


def _read() -> list[Case]:
    right = {"the first": 1, "of a later claim": 7 * CLAIM + 9, "the last": 2**63}
    good = mark(1)
    wrong = {
        "that counts further": mark(2**63 + 1),
        "under another key": mark(1, transport=OTHER),
        "with another salt": bytes([good[0] ^ 1]) + good[1:],
        "with another byte": good[:30] + bytes([good[30] ^ 1]) + good[31:],
        "none": b"",
        "too short": good[:-1],
        "too long": good + b"\0",
        "sealed without its instance": sealed(salt_of(""), bytes(8)),
    }
    made = [
        case(name, transport=TRANSPORT, mark=mark(counter), counter=counter, instance=HERE)
        for name, counter in right.items()
    ]
    return made + [
        case(name, transport=TRANSPORT, mark=data, error="refused") for name, data in wrong.items()
    ]


def _swapped() -> list[Case]:
    one, two, three = (fixed(name, 56) for name in ("one", "two", "three"))
    return [
        case(name, there=there, seen=seen, new=new, told=there, after=after)
        for name, there, seen, new, after in (
            ("the first", b"", b"", one, one),
            ("what was seen", one, one, two, two),
            ("something else", one, two, three, one),
            ("without having seen what is there", one, b"", two, one),
            ("what is not there any more", b"", one, two, b""),
            ("the same once more", two, one, two, two),
            ("itself", one, one, one, one),
        )
    ]


def _found() -> list[Case]:
    """By name: how the copy is, seconds since it has begun anew, what it has put (counter), what
    it finds, what it does, and how far it counts then."""
    ours, theirs = 5 * CLAIM + 40, THERE
    put = mark(ours, name="put")
    made: Mapping[str, tuple[str, int | None, bytes, str, int]] = {
        "no mark": ("at work", None, b"", "nothing", ours),
        "its own": ("at work", None, put, "nothing", ours),
        "one of before": ("at work", None, mark(ours - 1), "nothing", ours),
        "one of an earlier claim": ("at work", None, mark(4 * CLAIM + 99), "nothing", ours),
        "one that does not open": ("at work", None, bytes(56), "nothing", ours),
        "one that counts too far": ("at work", None, mark(2**63 + 1), "nothing", ours),
        "as far, and not its own": ("at work", None, mark(ours), "begins anew", ours + 1),
        "further": ("at work", None, mark(ours + 7), "begins anew", ours + 8),
        "further, of another instance": (
            *("at work", None, mark(ours + 7, theirs), "begins anew", ours + 8),
        ),
        "of another instance, just after it began anew": (
            *("at work", 0, mark(ours + 7, theirs), "stops", 6 * CLAIM + 1),
        ),
        "of another instance, almost a day after": (
            *("at work", DAY - 1, mark(ours + 7, theirs), "stops", 6 * CLAIM + 1),
        ),
        "of another instance, a day after": (
            *("at work", DAY, mark(ours + 7, theirs), "begins anew", ours + 8),
        ),
        "of its own instance, just after it began anew": (
            *("at work", 0, mark(ours + 7), "begins anew", ours + 8),
        ),
        "of a later claim": ("at work", None, mark(8 * CLAIM + 1), "stops", 9 * CLAIM + 1),
        "just restored, further": ("restored", 0, mark(ours + 7, theirs), "goes on", ours + 8),
        "just restored, of a later claim": (
            *("restored", 0, mark(8 * CLAIM + 3, theirs), "goes on", 8 * CLAIM + 4),
        ),
        "just restored, of before": ("restored", 0, mark(ours - 1), "nothing", ours),
        "just claimed, further": ("claimed", 0, mark(ours + 7, theirs), "goes on", 6 * CLAIM + 1),
        "just claimed, of a later claim": (
            *("claimed", 0, mark(8 * CLAIM + 3, theirs), "goes on", 9 * CLAIM + 1),
        ),
        "just claimed, of before": ("claimed", 0, mark(4 * CLAIM), "nothing", ours),
    }
    return [
        case(name, transport=TRANSPORT, put=put, state=state, since=since, found=found, does=does,
             counter=counter)
        for name, (state, since, found, does, counter) in made.items()
    ]  # fmt: skip


FILES = {"marks": marks}
