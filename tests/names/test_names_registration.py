"""Who may register: invites, proofs of work, short names, floods; and who may change the rules."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs_common import limits
from cbfs_common.errors import DecodeError
from cbfs_common.names.config import (
    Config,
    ConfigFile,
    Registration,
    Terms,
    config_of,
    parse_config,
)
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import (
    Operation,
    OperationKind,
    Refusal,
    decode_operation,
)
from cbfs_common.names.registration import Invite, Token, by_invite, parse_token, proven
from cbfs_common.primitives import sign_public
from cbfs_names.state import replay
from tests.support.names_local import (
    CONFIG,
    DIRECTORY,
    KEYS,
    NOW,
    Local,
    commit,
    local,
    register,
    worked_for,
)

REGISTRAR, STRANGER = b"R" * 32, b"x" * 32
INVITED = Terms(Registration.INVITE, registrar=sign_public(REGISTRAR), short=5)


def with_terms(terms: Terms) -> Config:
    return KEYS.config(terms)


@pytest.fixture
def inviting(tmp_path: Path) -> Iterator[Local]:
    with local(tmp_path / "store", with_terms(INVITED)) as made:
        yield made


def token(number: int = 1, name: str = "", signer: bytes = REGISTRAR) -> Token:
    seed = bytes([number]) * 32
    return Token(seed, Invite(DIRECTORY, sign_public(seed), NOW + 1_000, name).signed(signer))


def invited(name: str, by: Token, owner: bytes = b"o" * 32) -> Operation:
    return by_invite(commit(name, owner), by)


def refusal(directory: Local, operation: Operation) -> Refusal:
    outcome = directory.round(operation)
    assert outcome.head is None
    return outcome.refused[operation.encode()]


def test_invite_registers_one_name_and_is_spent(inviting: Local) -> None:
    assert refusal(inviting, commit("alice")) is Refusal.INVITE_NEEDED
    assert inviting.round(invited("alice", token())).head is not None
    assert inviting.round(register("alice")).head is not None
    assert refusal(inviting, invited("bobby", token())) is Refusal.INVITE_SPENT
    assert inviting.round(invited("bobby", token(2))).head is not None
    assert inviting.round(register("bobby")).head is not None


def test_invite_is_for_one_commitment_at_a_time(inviting: Local) -> None:
    inviting.round(invited("alice", token()))
    assert refusal(inviting, invited("bobby", token())) is Refusal.INVITE_SPENT
    inviting.now += limits.COMMIT_LIFETIME + 1
    late = token()
    assert refusal(inviting, invited("alice", late)) is Refusal.INVITE_NEEDED
    longer = replace(late.invite, expires=NOW + 10**7).signed(REGISTRAR)
    assert inviting.round(invited("bobby", replace(late, invite=longer))).head is not None


def test_two_commitments_with_one_invite_in_one_batch_are_one(inviting: Local) -> None:
    one, other = invited("alice", token()), invited("bobby", token())
    outcome = inviting.round(one, other)
    assert outcome.refused == {other.encode(): Refusal.INVITE_SPENT}


FORGED: dict[str, tuple[Refusal, Callable[[], Operation]]] = {
    "an invite of another registrar": (
        Refusal.INVITE_NEEDED,
        lambda: invited("alice", token(signer=STRANGER)),
    ),
    "an invite to another directory": (
        Refusal.INVITE_NEEDED,
        lambda: invited(
            "alice",
            replace(
                token(),
                invite=replace(token().invite, directory=bytes(16)).signed(REGISTRAR),
            ),
        ),
    ),
    "an invite whose name was changed": (
        Refusal.INVITE_NEEDED,
        lambda: invited("abc", replace(token(), invite=replace(token().invite, name="abc"))),
    ),
    "an invite that somebody has seen": (
        Refusal.WRONG_SIGNATURE,
        lambda: replace(invited("alice", token()), secret=b"c" * 32),
    ),
    "an invite without its key": (
        Refusal.WRONG_SIGNATURE,
        lambda: invited("alice", replace(token(), seed=STRANGER)),
    ),
    "no invite and a signature": (
        Refusal.WRONG_SIGNATURE,
        lambda: commit("alice").signed((STRANGER,)),
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_invites_are_refused(inviting: Local, case: str) -> None:
    wanted, make = FORGED[case]
    assert refusal(inviting, make()) is wanted


def test_short_name_needs_a_grant_of_that_name(inviting: Local) -> None:
    inviting.round(invited("abc", token()), invited("abcd", token(2, "abcd")))
    inviting.round(invited("other", token(3, "abcd")))
    assert refusal(inviting, register("abc")) is Refusal.REGISTRAR_NEEDED
    assert refusal(inviting, register("other")) is Refusal.INVITE_NEEDED
    assert inviting.round(register("abcd")).head is not None


def test_proof_of_work_is_asked_for_and_made(tmp_path: Path) -> None:
    terms = Terms(Registration.WORK, work=8)
    with local(tmp_path / "store", with_terms(terms)) as directory:
        bare = commit("alice")
        while proven(bare, terms.work):
            bare = replace(bare, work=bare.work + 1)
        assert refusal(directory, bare) is Refusal.WORK_NEEDED
        assert directory.round(worked_for(bare, terms.work)).head is not None
        assert directory.round(register("alice")).head is not None


def test_where_registration_is_open_newcomers_work_as_well(tmp_path: Path) -> None:
    with local(tmp_path / "store", with_terms(Terms())) as directory:
        bare = commit("alice")
        while proven(bare, limits.OPEN_WORK):
            bare = replace(bare, work=bare.work + 1)
        assert refusal(directory, bare) is Refusal.WORK_NEEDED
        assert directory.round(worked_for(bare, limits.OPEN_WORK)).head is not None


def test_work_of_bits_is_what_the_check_of_it_takes() -> None:
    for bits in range(12):
        made = worked_for(commit("alice"), bits)
        assert proven(made, bits)
        if made.work:
            assert not proven(replace(made, work=made.work - 1), bits)


def test_the_more_commits_wait_the_more_work_is_asked(tmp_path: Path) -> None:
    """And it falls again by itself. Whoever does the work is never refused."""
    few = limits.COMMITS_EASY
    with local(tmp_path / "store") as directory:
        flood = [commit(f"name{n}") for n in range(few + 1)]
        outcome = directory.round(*flood[:few])
        assert len(outcome.placed) == few
        honest = commit("honest")
        while proven(honest, 1):
            honest = replace(honest, work=honest.work + 1)
        assert refusal(directory, honest) is Refusal.WORK_NEEDED
        assert directory.round(worked_for(honest, 1)).head is not None
        assert directory.round(register("honest")).head is not None
        directory.now += 3 * limits.COMMIT_PACE
        later = commit("later")
        while proven(later, 1):
            later = replace(later, work=later.work + 1)
        assert directory.round(later).head is not None


def test_an_invite_needs_no_work_and_makes_none_dearer(tmp_path: Path) -> None:
    terms = Terms(Registration.WORK, work=8, registrar=sign_public(REGISTRAR))
    with local(tmp_path / "store", with_terms(terms)) as directory:
        assert directory.round(by_invite(commit("alice"), token())).head is not None
        with directory.store.read() as view:
            assert view.busy_until() == 0


def test_past_so_many_commits_the_oldest_without_an_invite_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "COMMITS_MAX", 3)
    terms = Terms(Registration.WORK, work=0, registrar=sign_public(REGISTRAR))
    with local(tmp_path / "store", with_terms(terms)) as directory:
        directory.round(by_invite(commit("alice"), token()))
        for name in ("bobby", "carol"):
            directory.now += 1
            directory.round(commit(name))
        directory.now += 1
        assert directory.round(commit("danny"), commit("erika")).head is not None
        for gone in ("bobby", "carol"):
            assert refusal(directory, register(gone)) is Refusal.NO_COMMIT
        for kept in ("alice", "danny", "erika"):
            assert directory.round(register(kept)).head is not None
        with directory.store.read() as view:
            assert view.commit_count() == 3
        assert directory.round(commit("bobby")).head is not None  # again, by the work of now


def test_so_many_commits_fit_into_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "ROUND_COMMITS_MAX", 2)
    with local(tmp_path / "store") as directory:
        outcome = directory.round(*(commit(f"name{n}") for n in range(5)))
        assert set(outcome.refused.values()) == {Refusal.TOO_MANY}
        assert len(outcome.placed) == 2


def test_a_commit_is_void_soon(tmp_path: Path) -> None:
    """The work in one that has been forgotten cannot be used for much longer."""
    with local(tmp_path / "store") as directory:
        late = replace(commit("alice"), expires=1 + limits.COMMIT_ROUNDS_MAX + 1)
        assert refusal(directory, late) is Refusal.OUT_OF_DATE
        assert directory.round(replace(late, expires=late.expires - 1)).head is not None


def test_token_is_read_back_and_nothing_else_is_one() -> None:
    made = token(name="abc")
    text = made.text()
    assert parse_token(f" {text}\n") == made
    for wrong in (text[:-3], text + "aaaa", "cbfs-invite:", "hello", text.replace("a", "b")):
        with pytest.raises(DecodeError) as caught:
            parse_token(wrong)
        assert text[20:40] not in str(caught.value)


# The configuration.


def configure(new: Config, *seeds: bytes, old: Config = CONFIG) -> Operation:
    made = Operation(
        OperationKind.CONFIGURE, DIRECTORY, "", 0, 0, old.digest(), 1_000, terms=new.encode()
    ).signed(seeds)
    assert decode_operation(made.encode()) == made
    return made


def test_quorum_changes_the_configuration_from_the_next_round_on(tmp_path: Path) -> None:
    new = replace(CONFIG, terms=INVITED)
    with local(tmp_path / "store") as directory:
        assert refusal(directory, configure(new, STRANGER)) is Refusal.WRONG_SIGNATURE
        other = configure(replace(new, log=KEYS.config(INVITED).log), KEYS.verifier, old=new)
        assert refusal(directory, other) is Refusal.WRONG_CONFIG
        assert refusal(directory, configure(CONFIG, KEYS.verifier)) is Refusal.WRONG_CONFIG
        directory.round(commit("alice"), configure(new, KEYS.verifier))
        assert directory.core.renew(directory.now) is not None  # a head for who believes the new
        assert directory.core.renew(directory.now) is None
        assert refusal(directory, commit("bobby")) is Refusal.INVITE_NEEDED
        directory.round(invited("bobby", token()))
        with directory.store.read() as view:
            tip = view.tip()
            texts = [view.config_text(number) for number in (0, 1, 2, 7)]
        assert tip is not None
        assert tip.config == new.digest()
        assert texts == [CONFIG.encode(), CONFIG.encode(), new.encode(), new.encode()]
    with local(tmp_path / "store", new) as directory:
        assert directory.round(register("bobby")).head is not None


TWO = f"""# two organisations
log {CONFIG.log.encode()} cbfs-names://{"a" * 51}a@127.0.0.1:7701
registration work 20
lifetime 1000
witness a {CONFIG.witnesses[0][1].encode()} cbfs-names://{"a" * 51}a@127.0.0.1:7711
group all 1 a
quorum all
"""


def test_configuration_file_has_addresses_and_its_one_form_has_not() -> None:
    found = parse_config(TWO)
    assert isinstance(found, ConfigFile)
    assert found.server is not None
    assert (found.server.port, found.urls["a"].port) == (7701, 7711)
    assert found.config.terms == Terms(Registration.WORK, work=20, short=5, lifetime=1_000)
    assert config_of(found.config.encode()) == found.config
    assert parse_config(found.config.encode()).config == found.config
    with pytest.raises(DecodeError):
        config_of(TWO)
    assert found.config.digest() != ZERO


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("registration work 20", "registration work 41"),
        ("registration work 20", "registration work x"),
        ("registration work 20", "registration invite"),
        ("registration work 20", "registration nobody"),
        ("lifetime 1000", "lifetime 0"),
        ("lifetime 1000", "lifetime 1000\nlifetime 1000"),
        ("lifetime 1000", "lifetime"),
        ("lifetime 1000", "short 9"),
        ("lifetime 1000", "registrar aaaa"),
        ("group all 1 a", "group all 2 a"),
        ("quorum all", ""),
        ("witness a ", "witness b "),
        ("log ", "logs "),
        ("lifetime", "gibberish"),
    ],
)
def test_wrong_configuration_is_refused(old: str, new: str) -> None:
    with pytest.raises(DecodeError):
        parse_config(TWO.replace(old, new))
