"""``cbfs sign-up``: the account at the home server is made anew, when it has ended there."""

import argparse
import sys
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM, load_account, load_own_server, opened_store
from cbfs.account.passphrase import unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.commands.account import add_old_passphrase
from cbfs.commands.online import online
from cbfs.commands.options import (
    absolute,
    add_account,
    add_network,
    add_server_invite,
    network_options,
    say,
)
from cbfs.commands.process.running import run
from cbfs.network.access import Network
from cbfs.network.dial import HOME
from cbfs.network.link import open_link
from cbfs.receiving.signing_up import read_server_invite, sign_up
from cbfs_common.errors import CbfsError


def add_sign_up(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs sign-up`` takes."""
    parser.description = (
        "For a home server that takes newcomers by invite, or asks for much work: else"
        " the mount does this by itself. Unmount it first."
    )
    add_account(parser)
    add_server_invite(parser)
    add_old_passphrase(parser)
    add_network(parser)
    parser.set_defaults(run=_sign_up)


def _sign_up(options: argparse.Namespace) -> int:
    place: Path = options.account.absolute()
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    with opened_store(place, SYSTEM_RANDOM, unlock) as store:
        account = load_account(store)
        if account is None:
            raise CbfsError(
                f"the account in {place} is not finished", "run the same cbfs init again"
            )
        path, server = absolute(options.server_invite), account.server
        invite = b"" if path is None else read_server_invite(path, server)

        async def steps(network: Network) -> None:
            async with open_link(
                network.dialer, server, account.transport, HOME, SYSTEM_RANDOM
            ) as link:
                await sign_up(link, account.user_id, SYSTEM_RANDOM, invite, say)

        own = load_own_server(store) is not None
        run(online, store, place, network_options(options), say, steps, own)
    sys.stdout.write(f"There is an account at {account.server.place}. Mount it.\n")
    return 0
