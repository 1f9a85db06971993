"""Why a message waits is said in status and at the message; and whose profile is none."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import trio

from cbfs.contacts import contacts
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages.listings import entry_of
from cbfs.network.link import Link, ServerRefused, request
from cbfs.sending import sender
from cbfs.tree.nodes import MessageFile
from cbfs.tree.xattrs import xattrs
from cbfs_common.errors import DecodeError
from cbfs_common.wire.requests import Code, TakePrekey
from tests.engine.test_engine import NO_TOR, account, send, until
from tests.support.fake_backend import BOB
from tests.support.world import World


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("why"), stack)


def test_a_first_message_to_who_was_away_for_long_says_so(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their server has no prekey left that has not expired."""
    places = account(here, "alice"), account(here, "bob")

    async def refusing(link: Link, asked: object) -> object:
        if isinstance(asked, TakePrekey):
            raise ServerRefused(Code.NO_PREKEY)
        return await request(link, asked)  # type: ignore[arg-type]

    monkeypatch.setattr(sender, "request", refusing)

    def said(alice: Engine) -> bool:
        return any("no prekey left" in line for line in alice.report().problems)

    async def main() -> None:
        async with running(places[0], NO_TOR) as alice:
            message = await send(alice, ("bob",), b"hello")
            await until(lambda: said(alice), "status to say so")
            assert alice.report().queue == ("1 message to bob",)
            node = MessageFile(message.conversation, entry_of(message))
            found = xattrs(node, alice)
            assert found["user.cbfs.state"] == "bob: queued"
            assert "no prekey left" in found["user.cbfs.error"]
            await alice.people.rename("bob", "bobby")
            await until(
                lambda: any(line.startswith("bobby: ") for line in alice.report().problems),
                "status to call bob bobby",
            )
            await alice.delete(message)
            assert not said(alice)

    trio.run(main)


def test_whose_profile_is_none_is_said() -> None:
    with pytest.raises(DecodeError, match="for bob is not a profile") as raised:
        contacts._check_profile(replace(BOB, profile=b"noise"))
    assert raised.value.hint
