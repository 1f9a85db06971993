"""Layouts, notes, policies and wire messages: what is written is read back, and any other bytes
are one of our errors."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs_common.errors import CryptoError, DecodeError, LimitError
from cbfs_common.limits import BUNDLE_MAX, COSIGNERS_MAX, OWNER_KEYS_MAX, POLICY_MAX
from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.checks import decode_state, new_state
from cbfs_common.names.entry import ENTRY_MAX, Entry, Keys, Status, decode_entry, decode_round
from cbfs_common.names.layout import ZERO
from cbfs_common.names.note import (
    COSIGNER_KEY,
    LOG_KEY,
    NoteKey,
    cosign,
    parse_checkpoint,
    parse_note,
    parse_note_key,
    verify_cosignature,
    verify_log,
)
from cbfs_common.names.operations import (
    OPERATION_MAX,
    Operation,
    OperationKind,
    Refusal,
    decode_operation,
)
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.proofs import Evidence, decode_bundle, encode_bundle
from cbfs_common.names.wire import (
    NAMES_REPLY_MAX,
    AskConsistency,
    AskHistory,
    AskTerms,
    ConsistencyIs,
    Lookup,
    Receipted,
    RefusedReply,
    Reply,
    Request,
    Steps,
    Submit,
    Submitted,
    TermsAre,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from cbfs_common.primitives import sign_public
from cbfs_common.profile import Address
from cbfs_common.wire.transport import PAYLOAD_MAX
from cbfs_names.state.block import decode_block
from tests.support.names_naive import (
    DIRECTORY,
    NOW,
    Forger,
    make_entry,
    make_policy,
)

HERE = Address(b"k" * 32, "127.0.0.1", 7)
MANY = Keys(2, tuple(bytes([n]) * 32 for n in range(OWNER_KEYS_MAX)))
LARGEST = Entry(
    "a" * 32, 2**32 - 1, 2**32 - 1, Status.ACTIVE, 2**64 - 1, 2**64 - 1, b"p" * 32, MANY, MANY,
    b"x" * 1_024, MANY, 2**64 - 1, b"a" * 32,
)  # fmt: skip

keys = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5, unique=True).map(
    lambda found: Keys(len(found) // 2 + 1, tuple(sorted(found)))
)
numbers = st.integers(0, 2**64 - 1)
hashes = st.binary(min_size=32, max_size=32)
profiles = st.binary(max_size=1_024)
entries = st.builds(
    Entry,
    st.from_regex(r"\A[a-z0-9]{4,32}\Z").filter(lambda name: not name.startswith(("com", "lpt"))),
    st.integers(1, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    st.sampled_from(Status),
    numbers,
    numbers,
    hashes,
    keys,
    st.one_of(st.just(Keys(0, ())), keys),
    profiles,
)
recovered = st.builds(
    lambda entry, heirs, due: replace(entry, heirs=heirs, due=due), entries, keys, numbers
).filter(lambda entry: entry.due)
with_agent = st.builds(lambda entry, agent: replace(entry, agent=agent), entries, hashes)


@given(st.one_of(entries, recovered, with_agent))
def test_entry_is_read_back(entry: Entry) -> None:
    data = entry.encode()
    assert decode_entry(data) == entry
    for cut in (data[:-1], data + b"\x00"):
        with pytest.raises(DecodeError):
            decode_entry(cut)


def test_largest_values_have_the_sizes_that_are_told() -> None:
    assert len(LARGEST.encode()) == ENTRY_MAX
    assert decode_entry(LARGEST.encode()) == LARGEST
    operation = Operation(
        OperationKind.REGISTER,
        b"d" * 16,
        "a" * 32,
        1,
        1,
        ZERO,
        1,
        b"s" * 32,
        MANY,
        MANY,
        b"x" * 1_024,
        agent=b"a" * 32,
    ).signed(tuple(bytes([n]) * 32 for n in range(2 * OWNER_KEYS_MAX)))
    assert len(operation.encode()) == OPERATION_MAX
    assert decode_operation(operation.encode()) == operation
    assert NAMES_REPLY_MAX <= PAYLOAD_MAX


@pytest.mark.parametrize(
    ("threshold", "found"),
    [
        (0, (b"a" * 32,)),
        (2, (b"a" * 32,)),
        (1, ()),
        (1, (b"b" * 32, b"a" * 32)),
        (1, (b"a" * 32, b"a" * 32)),
        (1, (b"a",)),
        (1, tuple(bytes([n]) * 32 for n in range(6))),
    ],
)
def test_owner_keys_that_are_none(threshold: int, found: tuple[bytes, ...]) -> None:
    with pytest.raises(DecodeError):
        Keys(threshold, found)


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x01", b"\x01\x01", b"\x01\x03"]))
def test_any_bytes_are_a_value_or_an_error(data: bytes, start: bytes) -> None:
    for decode in (
        decode_entry,
        decode_operation,
        decode_round,
        decode_block,
        decode_bundle,
        decode_state,
        decode_request,
        decode_reply,
        parse_note,
    ):
        try:
            decode(start + data)
        except DecodeError:
            continue


@given(st.binary(max_size=300))
def test_flipped_operations_are_refused_or_others(noise: bytes) -> None:
    good = Operation(OperationKind.UPDATE, bytes(16), "alice", 1, 2, ZERO, 9, profile=b"x").signed(
        (b"o" * 32,)
    )
    data = bytearray(good.encode())
    for at, byte in enumerate(noise[: len(data)]):
        data[at] ^= byte
    try:
        found = decode_operation(bytes(data))
    except DecodeError:
        return
    assert found.encode() == bytes(data)


# Notes: the published example of Go's sumdb/note, and ours.

GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    b"If you think cryptography is the answer to your problem,\n"
    b"then you don't know what your problem is.\n"
)
GO_NOTE = (
    GO_TEXT
    + "\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n".encode()
)


def test_published_note_verifies() -> None:
    key = parse_note_key(GO_KEY, LOG_KEY)
    assert key.encode() == GO_KEY
    note = parse_note(GO_NOTE)
    assert (note.text, note.encode()) == (GO_TEXT, GO_NOTE)
    signature = note.signature(key)
    assert signature is not None
    verify_log(key, note.text, signature)
    with pytest.raises(CryptoError):
        verify_log(key, note.text + b"\n", signature)


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann",
        "+c74f20a3+ARpc",
        GO_KEY + "=",
        GO_KEY[:-4],
        GO_KEY.replace("c74", "c75"),
        GO_KEY.replace("+AR", "+BB"),
        GO_KEY.replace("Peter", "Peter "),
    ],
)
def test_wrong_verifier_keys_are_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_note_key(text, LOG_KEY)
    with pytest.raises(DecodeError):
        parse_note_key(GO_KEY, COSIGNER_KEY)


CHECKPOINT = "example.com/log\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_checkpoint_of_the_specification_is_read_back() -> None:
    checkpoint = parse_checkpoint(CHECKPOINT)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/log", 20852163)
    assert checkpoint.encode().decode() == CHECKPOINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        CHECKPOINT + "extension\n",
        CHECKPOINT[:-1],
        CHECKPOINT.replace("20852163", "020852163"),
        CHECKPOINT.replace("20852163", "-1"),
        CHECKPOINT.replace("20852163", "9" * 20),
        CHECKPOINT.replace("2I=", "2J="),
        CHECKPOINT.replace("/log", " log"),
    ],
)
def test_wrong_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_checkpoint(text)


def test_cosignature_signs_time_and_text() -> None:
    seed = b"w" * 32
    key = NoteKey("witness", COSIGNER_KEY, sign_public(seed))
    line = cosign(seed, "witness", NOW, b"text\n")
    assert verify_cosignature(key, b"text\n", line.signature) == NOW
    with pytest.raises(CryptoError):
        verify_cosignature(key, b"other\n", line.signature)
    with pytest.raises(CryptoError):
        verify_cosignature(key, b"text\n", (NOW + 1).to_bytes(8, "big") + line.signature[8:])
    with pytest.raises(DecodeError):
        verify_cosignature(key, b"text\n", line.signature[8:])
    with pytest.raises(DecodeError):
        verify_cosignature(key, b"text\n", b"\xff" + line.signature[1:])


# Policies.


def test_policy_is_read_back_and_counts_groups() -> None:
    policy = make_policy(HERE, witnesses=3, threshold=2)
    assert parse_policy(policy.encode()) == policy
    assert policy.satisfied(["v1", "v3"])
    assert not policy.satisfied(["v1"])
    assert not policy.satisfied(["v1", "v1", "stranger", "all"])


def organisations() -> str:
    lines = make_policy(HERE, witnesses=6).encode().splitlines()
    kept = [line for line in lines if not line.startswith(("group", "quorum"))]
    groups = ["group X 2 v1 v2 v3", "group Y 2 v4 v5 v6", "group both all X Y", "quorum both"]
    return "\n".join(kept + groups) + "\n"


def test_policy_of_two_organisations_needs_two_of_three_of_each() -> None:
    policy = parse_policy(organisations().replace(" X", "\tX  ") + "\n \n # a comment\n")
    assert policy.satisfied(["v1", "v2", "v5", "v6"])
    assert not policy.satisfied(["v1", "v2", "v3", "v4"])
    assert not policy.satisfied(["X", "Y"])


def without(keyword: str) -> str:
    return "\n".join(line for line in organisations().split("\n") if keyword not in line)


def doubled(keyword: str) -> str:
    return "\n".join(
        line + "\n" + line if keyword in line else line for line in organisations().split("\n")
    )


WRONG = {
    "no log": without("log "),
    "no configuration": without("cbfs-config"),
    "no quorum": without("quorum"),
    "a log twice": doubled("log "),
    "a configuration twice": doubled("cbfs-config"),
    "a witness twice": doubled("witness v1"),
    "a group twice": doubled("group X"),
    "two quorums": doubled("quorum"),
    "no signatures at all": organisations().replace("quorum both", "quorum none"),
    "an unknown quorum": organisations().replace("quorum both", "quorum neither"),
    "an unknown member": organisations().replace("2 v1", "2 v9"),
    "a member of two groups": organisations().replace("v4 v5", "v1 v5"),
    "a threshold too high": organisations().replace("X 2", "X 4"),
    "a threshold of 0": organisations().replace("X 2", "X 0"),
    "a threshold in words": organisations().replace("X 2", "X two"),
    "a group without members": organisations() + "group Z all\n",
    "a word that is not known": organisations() + "trust me\n",
    "a control character": organisations() + "# \x07\n",
    "a carriage return": organisations().replace("\n", "\r\n"),
    "another scheme": organisations().replace("cbfs-names://", "https://"),
    "too many witnesses": organisations()
    + "".join(
        f"witness w{n} {NoteKey('w', COSIGNER_KEY, bytes([n]) * 32).encode()}\n"
        for n in range(COSIGNERS_MAX)
    ),
    "too large": organisations() + "#" * POLICY_MAX,
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_policy_is_refused_with_a_hint(case: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_policy(WRONG[case])
    assert "policy" in str(caught.value)
    assert caught.value.hint


def test_a_key_of_two_witnesses_is_refused() -> None:
    lines = organisations().split("\n")
    first = next(line for line in lines if line.startswith("witness v1"))
    with pytest.raises(DecodeError):
        parse_policy("\n".join([first.replace("witness v1", "witness w1"), *lines]))


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_an_error(text: str) -> None:
    try:
        found: Policy = parse_policy(text)
    except DecodeError:
        return
    assert found.quorum


# Messages.

REPLY = Forger([make_entry("alice")]).look_up("alice")


@pytest.mark.parametrize(
    "request_",
    [
        Lookup("alice"),
        AskHistory("alice", 1, 2),
        Submit(b"operation"),
        AskTerms(3),
        AskConsistency(4_096, 2**64 - 1),
    ],
)
def test_request_is_read_back(request_: Request) -> None:
    assert decode_request(encode_request(request_)) == request_


@pytest.mark.parametrize(
    "reply",
    [
        REPLY,
        Steps((HistoryLink(1, 2, b"x"),)),
        Submitted(7),
        RefusedReply(Refusal.NAME_TAKEN),
        TermsAre("text", 20),
        Receipted(NOW, b"s" * 64),
        ConsistencyIs((ZERO, b"p" * 32)),
    ],
)
def test_reply_is_read_back(reply: Reply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc0",
        b"\x92\x01\xa5Alice",
        b"\x93\x02\xa5alice\x00",
        b"\x93\x07\x01\xff",
        b"\x93\x07\xc3\x01",
        b"\x91\x01",
        b"\x92\x03\xa1x",
        b"\x91\x63",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\x01\x02",
        b"\x93\x01\xa5alice\x00\x00",
    ],
)
def test_wrong_requests_are_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_request(payload)


def test_bundle_keeps_the_newest_links_that_fit_and_says_when_nothing_does() -> None:
    links = tuple(HistoryLink(n, n, bytes([n]) * 500) for n in range(10))
    bundle = encode_bundle(DIRECTORY, REPLY.evidence, links)
    assert len(bundle) <= BUNDLE_MAX
    _, evidence, kept = decode_bundle(bundle)
    assert evidence == REPLY.evidence
    assert kept == links[-len(kept) :]
    assert 2 <= len(kept) < 10
    with pytest.raises(LimitError):
        encode_bundle(DIRECTORY, Evidence(b"n" * 3_070, b"", (), b"", b""), ())


def test_state_is_read_back() -> None:
    state = new_state(make_policy(HERE))
    assert decode_state(state.encode()) == state
    with pytest.raises(DecodeError):
        decode_state(state.encode() + b"\x00")
