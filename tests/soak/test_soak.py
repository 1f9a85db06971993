"""The soak, for a short time: SOAK_S of ``./run soak`` makes it long."""

import secrets

import pytest

from tests.soak import files, hub, kills, programs

LIMIT = 1_200
"""Seconds for one of them: on a busy machine the last of what was sent may come very late."""

pytestmark = [pytest.mark.mount, pytest.mark.timeout(LIMIT)]


def test_kills_and_a_hostile_network_lose_nothing_and_double_nothing() -> None:
    account = kills.soak(12, seed=6)
    print(account.report())
    assert (account.lost, account.doubled, account.strange) == ([], [], [])
    assert len(account.saved) > 10
    assert account.kills.total() > 1


def test_24_programs_at_once_see_every_byte_and_every_message() -> None:
    outcome = programs.soak(15)
    print(outcome.report())
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert outcome.saved > 6
    assert outcome.rounds > 8


def test_files_are_as_on_a_plain_directory_whatever_programs_do() -> None:
    seed = secrets.randbelow(1_000_000)
    outcome = files.soak(20, seed)
    print(outcome.report())
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert outcome.operations > 500
    assert outcome.listings > 10


def test_two_machines_on_one_hub_lose_nothing_and_double_nothing() -> None:
    outcome = hub.soak(24, seed=3, cuts=6)
    print(outcome.report())
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert outcome.cuts.total() == 6
    assert len(outcome.saved) > 12
