"""How many envelopes are under way to one recipient at once."""

import math
from dataclasses import replace
from typing import Any

import pytest
import trio

import cbfs.sending.sender
from cbfs.engine.running import running
from cbfs.sending.sender import WINDOW, WINDOW_MAX
from tests.engine.test_commits_of_a_message import meet, queued
from tests.engine.test_engine import NO_TOR, account, send, until
from tests.support.world import World

FILE = bytes(1_500_000)
"""Takes more than a hundred envelopes, where it is no blob."""


def windows(world: World, monkeypatch: pytest.MonkeyPatch, brisk: float, name: str) -> list[int]:
    """The sizes of those in which FILE goes, when one counts as quick that takes ``brisk``
    seconds."""
    sizes: list[int] = []
    asked = vars(cbfs.sending.sender)["request_in_order"]

    async def request_in_order(link: Any, requests: Any, *rest: Any) -> Any:
        sizes.append(len(requests))
        return await asked(link, requests, *rest)

    async def main() -> None:
        places = account(world, f"{name}-one"), account(world, f"{name}-two")
        async with running(places[0], NO_TOR) as one, running(places[1], NO_TOR) as two:
            await one.configuration.change(replace(one.configuration.current, blobs=False))
            await meet(one, two)
            sizes.clear()
            await send(one, (two.name,), FILE)
            await until(lambda: not queued(one), "it to be delivered")

    monkeypatch.setattr("cbfs.sending.sender.BRISK", brisk)
    monkeypatch.setattr("cbfs.sending.sender.request_in_order", request_in_order)
    trio.run(main)
    return sizes


def test_windows_grow_where_they_are_quick(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a round trip."""
    sizes = windows(here, monkeypatch, math.inf, "quick")
    assert sizes[:3] == [WINDOW, 2 * WINDOW, 4 * WINDOW]
    assert max(sizes) == WINDOW_MAX


def test_windows_stay_small_where_they_are_slow(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way when the connection ends goes again."""
    assert max(windows(here, monkeypatch, -1, "slow")) == WINDOW
