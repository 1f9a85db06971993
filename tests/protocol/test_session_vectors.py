"""Primitives, profiles, prekeys, bodies and sessions against the vectors in tests/vectors, which
tests/vectors/make_vectors.py makes without cbfs_common."""

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest

from cbfs_common import errors, person, primitives
from cbfs_common.messages import body as message
from cbfs_common.messages import folder
from cbfs_common.messages.conversation import Lifetime
from cbfs_common.profile import Address, Profile, decode_profile, kem_id
from cbfs_common.session import session
from cbfs_common.session.prekey import Prekey, PrekeyKind, PrekeyPair, decode_prekey, make_prekey
from tests.support.protocol_naive import Person, Talk, fixed
from tests.support.talking import NOW, scripted
from tests.vectors import make_vectors
from tests.vectors.make_vectors import ALICE, BOB, FOLDER, VECTORS

ERRORS: dict[str, type[Exception]] = {
    "CryptoError": errors.CryptoError,
    "DecodeError": errors.DecodeError,
    "Duplicate": session.Duplicate,
    "TooFar": session.TooFar,
    "UnknownKind": message.UnknownKind,
}
Case = tuple[str, bytes, str]


def vectors(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def exactly(error: str, call: Callable[[], object]) -> None:
    """The named error and no subclass of it."""
    with pytest.raises(ERRORS[error]) as caught:
        call()
    assert caught.type is ERRORS[error]


@pytest.mark.parametrize("name", VECTORS)
def test_the_script_makes_the_vectors(name: str) -> None:
    assert VECTORS[name]() == vectors(name)


def test_primitives() -> None:
    told = vectors("primitives")
    for case in told["kdf"]:
        label = b"cbfs1 " + case["label"].encode()
        out = bytes.fromhex(case["out"])
        derived = primitives.kdf(
            bytes.fromhex(case["key"]), label, bytes.fromhex(case["data"]), len(out)
        )
        assert derived == out
    x = {name: bytes.fromhex(value) for name, value in told["x25519"].items()}
    assert primitives.dh(x["secret"], x["peer"]) == x["shared"]
    kem = {name: bytes.fromhex(value) for name, value in told["ml-kem-768"].items()}
    assert primitives.kem_public(kem["seed"]) == kem["ek"]
    assert primitives.kem_decapsulate(kem["seed"], kem["ct"]) == kem["shared"]
    key = primitives.KemKey(kem["seed"])
    assert (key.public(), key.decapsulate(kem["ct"])) == (kem["ek"], kem["shared"])
    secret, plain, sealed = (bytes.fromhex(value) for value in told["aead"].values())
    assert primitives.seal(secret[:32], secret[32:], plain) == sealed
    assert primitives.open_sealed(secret[:32], secret[32:], sealed) == plain


@pytest.mark.parametrize("case", vectors("primitives")["x25519 refused"], ids=str)
def test_public_keys_of_low_order(case: dict[str, str]) -> None:
    public = bytes.fromhex(case["public"])
    exactly(case["error"], lambda: primitives.dh(bytes(range(32)), public))
    exactly(case["error"], lambda: primitives.check_dh_public(public))


@pytest.mark.parametrize(
    "case", vectors("primitives")["ml-kem-768 refused"], ids=lambda case: case["name"]
)
def test_kem_public_keys_that_are_none(case: dict[str, str]) -> None:
    public = bytes.fromhex(case["ek"])
    exactly(case["error"], lambda: primitives.kem_encapsulate(public))
    exactly(case["error"], lambda: primitives.check_kem_public(public))


def test_profile() -> None:
    told = vectors("profile")
    user_id, signing, auth, kem, key = (
        bytes.fromhex(told[name]) for name in ("user_id", "signing", "auth", "kem", "server key")
    )
    assert kem_id(bytes.fromhex(told["KEM key"])) == kem
    address = Address(key, told["server host"], told["server port"])
    profile = Profile(user_id, signing, auth, kem, address)
    assert profile.encode().hex() == told["encoded"]
    assert decode_profile(profile.encode()) == profile
    directory = person.directory_id(bytes.fromhex(told["log key"]))
    assert directory.hex() == told["directory"]
    assert profile.identity(person.Person(directory, told["name"])).hex() == told["identity"]


@pytest.mark.parametrize("case", vectors("profile")["refused"], ids=lambda case: case["name"])
def test_profiles_that_are_none(case: dict[str, str]) -> None:
    exactly(case["error"], lambda: decode_profile(bytes.fromhex(case["encoded"])))


def test_prekey() -> None:
    told = vectors("prekey")
    draws = [bytes.fromhex(told[name]) for name in ("id", "x secret", "kem seed")]
    pair = make_prekey(scripted(draws), PrekeyKind(told["kind"]), told["expires"])
    signing = bytes.fromhex(told["signing seed"])
    assert pair.public(signing).hex() == told["record"]
    assert PrekeyPair.decode(pair.encode()) == pair
    prekey = decode_prekey(bytes.fromhex(told["record"]))
    prekey.verify(primitives.sign_public(signing), told["expires"] - 1)
    assert (prekey.id, prekey.kind, prekey.expires) == (pair.id, pair.kind, pair.expires)


@pytest.mark.parametrize("case", vectors("prekey")["refused"], ids=lambda case: case["name"])
def test_prekeys_that_are_none(case: dict[str, Any]) -> None:
    signing = primitives.sign_public(bytes.fromhex(vectors("prekey")["signing seed"]))

    def take() -> None:
        decode_prekey(bytes.fromhex(case["record"])).verify(signing, case["now"])

    exactly(case["error"], take)


def test_message() -> None:
    told = vectors("message")
    body = bytes.fromhex(told["body"])
    part = message.decode_body(body)
    for name, value in told["fields"].items():
        found = getattr(part, name)
        assert (found.hex() if isinstance(found, bytes) else found) == value
    assert isinstance(part, message.Part)
    assert part.lifetime == Lifetime(604_800, 3)
    assert part.hash(told["sender"]).hex() == told["hash"]
    assert message.encode_part(part) == body


@pytest.mark.parametrize("case", vectors("message")["refused"], ids=lambda case: case["name"])
def test_bodies_that_are_none(case: dict[str, str]) -> None:
    exactly(case["error"], lambda: message.decode_body(bytes.fromhex(case["body"])))


def test_folder() -> None:
    told = vectors("folder")
    head = bytes.fromhex(told["head"])
    assert folder.table_end(head[: folder.HEAD_SIZE]) == len(head)
    table = folder.decode_table(head, told["size"])
    assert [[e.parent, e.name, e.size] for e in table.entries] == told["entries"]
    assert list(table.starts) == told["starts"]
    assert folder.encode_table(table.entries) == head


@pytest.mark.parametrize("case", vectors("folder")["refused"], ids=lambda case: case["name"])
def test_folders_that_are_none(case: dict[str, Any]) -> None:
    def take() -> None:
        head = bytes.fromhex(case["head"])
        folder.table_end(head[: folder.HEAD_SIZE])
        folder.decode_table(head, case["size"])

    exactly("DecodeError", take)


def me(person: Person) -> session.Party:
    kem = primitives.KemKey(person.kem)
    return session.Party(person.identity, person.auth, primitives.dh_public(person.auth), kem)


def bobs_prekey() -> tuple[PrekeyPair, Prekey]:
    draws = [BOB.prekey_id, BOB.prekey_x, BOB.prekey_seed]
    pair = make_prekey(scripted(draws), PrekeyKind.ONE_TIME, 2_000_000_000)
    return pair, decode_prekey(pair.public(BOB.signing))


def alice_starts() -> session.Session:
    draws = [*ALICE.draws(0), fixed("alice e", 32), ALICE.m(0)]
    bob = session.Peer(BOB.identity, primitives.dh_public(BOB.auth))
    return session.start(me(ALICE), bob, bobs_prekey()[1], scripted(draws))


def test_session() -> None:
    told = vectors("session")
    alice = alice_starts()
    assert alice.start_hash.hex() == told["start hash"]
    sides: dict[str, session.Session | None] = {"alice": alice, "bob": None}
    people = {"alice": ALICE, "bob": BOB}
    draws = {
        "alice": scripted([*ALICE.draws(2), ALICE.m(2)]),
        "bob": scripted([*BOB.draws(1), BOB.m(1), *BOB.draws(3), BOB.m(3)]),
    }
    for case, (name, _, body, envelope) in zip(
        told["envelopes"], make_vectors.conversation(), strict=True
    ):
        other = "bob" if name == "alice" else "alice"
        sender, receiver = sides[name], sides[other]
        assert sender is not None
        sender, sealed = sender.seal(me(people[name]), body, draws[name])
        assert blake2b(sealed, digest_size=32).hexdigest() == case["blake2b-256"]
        assert sealed == envelope
        if receiver is None:
            receiver, opened = session.open_first(me(BOB), bobs_prekey()[0], sealed, NOW)
        else:
            receiver, opened = receiver.open(sealed, NOW)
        assert opened == body
        sides |= {name: sender, other: receiver}


def cases(make: Callable[[], dict[str, tuple[bytes, str]]]) -> list[Any]:
    return [pytest.param(*case, id=name) for name, case in make().items()]


@pytest.mark.parametrize(("envelope", "error"), cases(make_vectors.wrong_first))
def test_first_envelopes_that_are_none(envelope: bytes, error: str) -> None:
    exactly(error, lambda: session.open_first(me(BOB), bobs_prekey()[0], envelope, NOW))


def opened_by_bob() -> session.Session:
    """Bob, who has opened turn 0 n 0 and n 1."""
    first, second = (said[3] for said in make_vectors.conversation()[:2])
    bob, _ = session.open_first(me(BOB), bobs_prekey()[0], first, NOW)
    return bob.open(second, NOW)[0]


@pytest.mark.parametrize(("envelope", "error"), cases(make_vectors.wrong_later))
def test_later_envelopes_that_are_none(envelope: bytes, error: str) -> None:
    alice = alice_starts()
    for body in (b"hello", b""):
        alice, _ = alice.seal(me(ALICE), body, scripted([]))
    alice, _ = alice.open(make_vectors.conversation()[2][3], NOW)
    exactly(error, lambda: alice.open(envelope, NOW))


@pytest.mark.parametrize(("envelope", "error"), cases(make_vectors.wrong_turns))
def test_turns_that_are_none(envelope: bytes, error: str) -> None:
    bob, _ = opened_by_bob().seal(me(BOB), b"", scripted([*BOB.draws(1), BOB.m(1)]))
    exactly(error, lambda: bob.open(envelope, NOW))


def test_what_the_refused_ones_would_be_without_their_fault() -> None:
    """The three states and envelopes that the refused ones depart from do fit together."""
    chain = Talk(ALICE, BOB).chains[0]
    assert (
        session.open_first(me(BOB), bobs_prekey()[0], chain.envelope(4_096, b"x"), NOW)[1] == b"x"
    )
    talk = Talk(ALICE, BOB)
    first = talk.turn(pn=0)
    alice, _ = alice_starts().open(first.envelope(0, b"x"), NOW)
    assert alice.open(first.envelope(1, bytes(13_850)), NOW)[1] == bytes(13_850)
    assert alice.open(first.envelope(4_097, b"x"), NOW)[1] == b"x"
    bob, _ = opened_by_bob().seal(me(BOB), b"", scripted([*BOB.draws(1), BOB.m(1)]))
    assert bob.open(talk.turn(pn=2).envelope(0, b"x"), NOW)[1] == b"x"
    again = Talk(ALICE, BOB)
    again.turn(pn=0)
    assert bob.open(again.turn(pn=2 + 4_096).envelope(0, b"x"), NOW)[1] == b"x"
