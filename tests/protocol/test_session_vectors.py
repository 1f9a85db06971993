"""Primitives, profiles, prekeys, bodies and sessions against the vectors in tests/vectors, which
tests/vectors/make_vectors.py makes without cbfs_common."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cbfs_common import errors, person, primitives
from cbfs_common.messages import body as message
from cbfs_common.messages import folder
from cbfs_common.messages.conversation import Lifetime
from cbfs_common.profile import Address, Profile, decode_profile, kem_id
from cbfs_common.session import session
from cbfs_common.session.prekey import Prekey, PrekeyKind, PrekeyPair, decode_prekey, make_prekey
from tests.support.protocol_naive import Person, fixed
from tests.support.talking import NOW, scripted
from tests.vectors.make_vectors import ALICE, BOB, FOLDER, VECTORS

ERRORS: dict[str, type[Exception]] = {
    "CryptoError": errors.CryptoError,
    "DecodeError": errors.DecodeError,
    "noise": errors.CryptoError,
    "diverged": session.SessionDiverged,
    "duplicate": session.Duplicate,
    "too far": session.TooFar,
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
    secret, plain, *sealed = (bytes.fromhex(value) for value in told["aead"].values())
    assert primitives.seal(secret[:32], secret[32:], plain) == sealed[0]
    assert primitives.open_sealed(secret[:32], secret[32:], sealed[0]) == plain
    assert primitives.seal(secret[:32], secret[32:], plain, sealed[1]) == sealed[2]
    assert primitives.open_sealed(secret[:32], secret[32:], sealed[2], sealed[1]) == plain
    with pytest.raises(errors.CryptoError):
        primitives.open_sealed(secret[:32], secret[32:], sealed[2])


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
    public = primitives.kem_public(BOB.kem)
    bob = session.Peer(BOB.identity, primitives.dh_public(BOB.auth), kem_id(public))
    return session.start(me(ALICE), bob, bobs_prekey()[1], public, ALICE.life, scripted(draws))


def bob_begins(envelope: bytes) -> tuple[session.Session, bytes]:
    outer = session.outer_of(me(BOB), envelope)
    return session.open_first(me(BOB), bobs_prekey()[0], outer, envelope, NOW)


SESSION = vectors("session")
ENVELOPES = {case["what"]: bytes.fromhex(case["envelope"]) for case in SESSION["envelopes"]}
DRAWS = {
    "alice": [*ALICE.outer_draws(0), *ALICE.outer_draws(1), *ALICE.draws(2), ALICE.m(2)],
    "bob": [*BOB.draws(1), BOB.m(1), *BOB.draws(3), BOB.m(3)],
}


def test_session() -> None:
    alice = alice_starts()
    assert alice.start_hash.hex() == SESSION["start hash"]
    sides: dict[str, session.Session | None] = {"alice": alice, "bob": None}
    people = {"alice": ALICE, "bob": BOB}
    draws = {name: scripted(drawn) for name, drawn in DRAWS.items()}
    for case in SESSION["envelopes"]:
        name, body = case["sender"], bytes.fromhex(case["body"])
        other = "bob" if name == "alice" else "alice"
        sender, receiver, person = sides[name], sides[other], people[name]
        assert sender is not None
        sender, sealed = sender.seal(me(person), body, draws[name], person.life)
        assert sealed.hex() == case["envelope"]
        if receiver is None:
            receiver, opened = bob_begins(sealed)
        else:
            receiver, opened = receiver.open(me(people[other]), sealed, NOW)
        assert opened == body
        sides |= {name: sender, other: receiver}


def alice_sent() -> session.Session:
    alice, draws = alice_starts(), scripted(DRAWS["alice"])
    for body in (b"hello", b""):
        alice, _ = alice.seal(me(ALICE), body, draws, ALICE.life)
    return alice


def bob_sent() -> session.Session:
    """Bob, who has opened turn 0 n 0 and n 1, and answered."""
    bob, _ = bob_begins(ENVELOPES["turn 0 n 0"])
    bob, _ = bob.open(me(BOB), ENVELOPES["turn 0 n 1"], NOW)
    return bob.seal(me(BOB), b"", scripted(DRAWS["bob"]), BOB.life)[0]


Open = Callable[[bytes], tuple[session.Session, bytes]]


def states() -> dict[str, Open]:
    """Who opens, by the names that the vectors give them."""
    alice, bob = alice_sent(), bob_sent()
    opened, _ = alice.open(me(ALICE), ENVELOPES["turn 1 n 0"], NOW)
    return {
        "bob, who knows nothing": bob_begins,
        "alice, who sent turn 0": lambda envelope: alice.open(me(ALICE), envelope, NOW),
        "alice, who opened turn 1 n 0": lambda envelope: opened.open(me(ALICE), envelope, NOW),
        "bob, who sent turn 1": lambda envelope: bob.open(me(BOB), envelope, NOW),
    }


STATES = states()


def envelope_of(case: dict[str, Any]) -> bytes:
    if set(case) == {"name", "error", "envelope"}:
        return bytes.fromhex(case["envelope"])
    assert set(case) == {"name", "error", "base", "offset", "xor"}
    base, at = ENVELOPES[case["base"]], case["offset"]
    return base[:at] + bytes([base[at] ^ int(case["xor"], 16)]) + base[at + 1 :]


def test_every_kind_of_case_is_known() -> None:
    assert set(SESSION) == {
        *("format", "people", "e secret", "outer", "turns", "start hash", "envelopes"),
        *("opened at the limit", "refused"),
    }
    assert set(SESSION["refused"]) == set(STATES)


@pytest.mark.parametrize(
    ("state", "case"),
    [
        pytest.param(state, case, id=f"{state}: {case['name']}")
        for state, cases in SESSION["refused"].items()
        for case in cases
    ],
)
def test_envelopes_that_are_none(state: str, case: dict[str, Any]) -> None:
    exactly(case["error"], lambda: STATES[state](envelope_of(case)))


@pytest.mark.parametrize("case", SESSION["opened at the limit"], ids=lambda case: case["name"])
def test_envelopes_at_the_limit(case: dict[str, Any]) -> None:
    """The states and envelopes that the refused ones depart from do fit together."""
    assert STATES[case["state"]](bytes.fromhex(case["envelope"]))[1].hex() == case["body"]
