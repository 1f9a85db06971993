"""Limits that an operator changes while a server runs."""

import signal
from pathlib import Path

import pytest
import trio

from cbfs.network.link import ServerRefused, request
from cbfs_common.wire.requests import Code, Deliver, GetLimits
from tests.server.test_admin import admin
from tests.server.test_server_processes import PROGRAMS, running
from tests.support.serving import envelope, link_to, new_account, running_server
from tests.support.world import wait_for

FIRST = {"cbfs_server": ("mailbox", "16,384"), "cbfs_names": ("connections", "960")}


def limits(program: str, data: Path, *words: str) -> dict[str, str]:
    done = admin(program, data, "limits", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split(": ") for line in done.stdout.splitlines())


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_limit_holds_until_the_file_is_read_again(program: str, tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "settings.toml"
    name, before = FIRST[program]
    file.write_text("")
    with running(program, data, "--settings", str(file)) as (process, _):
        assert limits(program, data)[name] == before
        assert limits(program, data, name, "77")[name] == "77"
        for wrong in (name,), (name, "many"), (name, "-1"), ("data", "/"), ("nonsense", "1"):
            done = admin(program, data, "limits", "--", *wrong)
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 2), wrong
        assert limits(program, data)[name] == "77"
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: limits(program, data)[name] == before, "the file to be read")
        limits(program, data, name, "77")
    with running(program, data):
        assert limits(program, data)[name] == before


def test_a_limit_that_is_changed_counts_at_once(tmp_path: Path) -> None:
    async def go() -> None:
        _, user = await new_account(server)
        async with link_to(server) as link:
            await request(link, Deliver(user, envelope()))
            await trio.to_thread.run_sync(limits, "cbfs_server", server.data, "mailbox", "1")
            assert (await request(link, GetLimits())).mailbox == 1
            with pytest.raises(ServerRefused) as refused:
                await request(link, Deliver(user, envelope()))
            assert refused.value.code is Code.MAILBOX_FULL

    with running_server(tmp_path / "data") as server:
        trio.run(go)
