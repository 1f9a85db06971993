"""With which keys and isolations a client connects: none to two people, and none twice."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio

import cbfs.network.dial
import cbfs.network.link
import cbfs.sending.sender
from cbfs.engine.running import running
from cbfs.network.dial import LoopbackDialer
from cbfs_common.primitives import Random, dh_public
from cbfs_common.wire.transport import ClientConnection
from tests.engine.test_engine import NO_TOR, account, send, until
from tests.support.world import World


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("k"), stack)


class Seen:
    """Client keys by server key, and isolations, of all connections from now on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.keys: list[tuple[bytes, bytes]] = []
        self.isolations: list[bytes] = []
        seen = self
        real = LoopbackDialer.dial

        class Connection(ClientConnection):
            def __init__(self, server: bytes, secret: bytes, random: Random) -> None:
                seen.keys.append((server, dh_public(secret)))
                super().__init__(server, secret, random)

        async def dial(
            dialer: LoopbackDialer, host: str, port: int, isolation: bytes
        ) -> trio.abc.Stream:
            seen.isolations.append(isolation)
            return await real(dialer, host, port, isolation)

        patch.setattr(cbfs.network.link, "ClientConnection", Connection)
        patch.setattr(LoopbackDialer, "dial", dial)


def test_no_two_connections_share_a_key_or_an_isolation(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bob and carol have one home server: it cannot tell that the same client writes to both."""
    places = {name: account(here, name) for name in ("alice", "bob", "carol")}

    async def main() -> None:
        seen = Seen(monkeypatch)
        async with running(places["alice"], NO_TOR) as alice:
            own = alice.profile.user_id
            for person in ("bob", "carol"):
                await send(alice, (person,), b"hello")
                await until(lambda: not alice.report().queue, "delivery")
        foreign = [key for _server, key in seen.keys if key != own]
        assert len(foreign) >= 5  # for each a prekey and a delivery, and names
        assert len(foreign) == len(set(foreign))
        assert own in {key for _server, key in seen.keys}
        others = [i for i in seen.isolations if not i.startswith(cbfs.network.dial.HOME)]
        assert len(others) == len(set(others))

    trio.run(main)


def test_a_delivery_session_is_replaced_when_its_time_is_over(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {name: account(here, name) for name in ("dave", "erin")}
    monkeypatch.setattr(cbfs.sending.sender, "REUSE_TIME", 0.2)

    async def main() -> None:
        seen = Seen(monkeypatch)
        async with running(places["dave"], NO_TOR) as dave:

            def sessions() -> set[bytes]:
                return {i for i in seen.isolations if i.startswith(b"deliver:")}

            for number in range(1_000):
                if len(sessions()) > 2:
                    return
                await send(dave, ("erin",), b"%d" % number)
                await until(lambda: not dave.report().queue, "delivery")
        raise AssertionError("one session carried everything")

    trio.run(main)
