"""Peers and servers of another version of the protocol than this one: what both have goes on, and the
rest is kept, said, and read after the upgrade."""

import os
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages.queues.quarantine import of_later_version
from cbfs.network.link import ServerRefused, request
from cbfs.receiving import mailbox
from cbfs.storage.store import Table
from cbfs_common.limits import SPOKEN_VERSION
from cbfs_common.wire.requests import Code, ErrorReply, GetLimits, TellVersion, encode
from cbfs_common.wire.transport import ClientConnection
from server.cbfs_server import service
from tests.engine.test_engine import NO_TOR, until
from tests.engine.test_engine import send as send_file
from tests.support.next_version import LATER, NEW, NEXT, NewRequest, make_next, next_version
from tests.support.serving import link_to, running_server
from tests.support.town import Town, arrived, contact, in_town, load
from tests.support.world import World


def shown(engine: Engine) -> set[str]:
    """The names of the files of all messages."""
    return {m.file_name for c in engine.conversations() for m in engine.messages(c.id)}


def told(engine: Engine) -> list[str]:
    return [line for line in engine.report().problems if "later version" in line]
