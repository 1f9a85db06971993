"""``cbfs host``: a message server and a name directory for friends, on this machine."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import tomli_w
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.commands.home.host_settings import (
    ADDRESS,
    CONTROL,
    NAMES,
    SERVER,
    SETTINGS,
    HostSettings,
    first_settings,
    read_settings,
    write_settings,
)
from cbfs.commands.online import NetworkProgress, connected
from cbfs.commands.options import add_network, network_options, say
from cbfs.commands.process.running import run
from cbfs.network.access import reaching
from cbfs.network.options import NetworkOptions
from cbfs.network.own_server import installed
from cbfs_common.errors import CbfsError
from cbfs_common.names.policy import SCHEME
from cbfs_common.profile import parse_address
from cbfs_host.files import opened_data, write_file
from cbfs_host.program import until_asked
from cbfs_host.systemd import Manager

STOP_TIMEOUT: Final = 15.0
"""Seconds that a server has to end before it is killed."""

START_TIMEOUT: Final = 300.0
"""Seconds until a server must be reachable: Tor may take half a minute to publish it."""

TOLD: Final = "serving"
"""How the line begins that is printed when both servers can be reached."""

_UNLESS_ALONE: Final = """test "$PPID" = "$0" && exec "$@\""""
"""What a shell does, whose $0 is this process: no signal comes of a parent that has died before
that was asked for."""

_ORG = """\
One host is trusted by all whom it invites: whoever runs it says who has which name. Several
organisations can run one name directory together, so that clients believe only what enough of them
have signed. Then each runs verifiers, and one of them the sequencer:

  1. Each organisation makes keys where its verifiers run, and gives the lines to the others:
       cbfs-names key --data DIR --address HOST:PORT NAME
     and who runs the sequencer: cbfs-names key --sequencer --data DIR --address HOST:PORT NAMESPACE
  2. These lines together, with groups and a quorum, are the configuration, the same for all:
       group a 2 a1 a2 a3      two of the three verifiers of organisation a
       group both all a b
       quorum both
  3. Each starts its processes: cbfs-names --sequencer --data DIR --config FILE, and
     cbfs-names --verifier --data DIR --config FILE
  4. Newcomers get the sequencer's file DIR/policy, and any message server:
       cbfs init NAME --server URL --names policy

It is a new directory: names of this host are registered there anew, and people of both write to
each other by giving their mounts the other's policy (directories/). cbfs-names(8) explains the
rest, under SEPARATE VERIFIERS.
"""


def add_host(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs host`` takes."""
    parser.description = (
        "Runs a message server and a name directory for those whom you invite, until it is stopped."
    )
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="all that it keeps")
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="with --no-tor, at the first start: where the message server is; the directory has the"
        " next port, with 0 both have any that are free (default: 127.0.0.1:0)",
    )
    parser.add_argument(
        "--store-is-current",
        action="store_true",
        help="your word that a directory that was copied here has not run elsewhere since",
    )
    parser.add_argument(
        "--org",
        action="store_true",
        help="explain the step to a name directory of several organisations",
    )
    add_network(parser)
    parser.set_defaults(run=_host, usage=parser.error)


def _host(options: argparse.Namespace) -> int:
    if options.org:
        sys.stdout.write(_ORG)
        return 0
    if options.directory is None:
        options.usage("missing: DIR, where the host keeps everything")
    if options.listen and not options.no_tor:
        options.usage("--listen is for trying out, with --no-tor: onion services need no address")
    with opened_data(options.directory, "cbfs host") as place:
        settings = read_settings(place)
        if settings is None:
            settings = first_settings(tor=not options.no_tor, listen=options.listen)
            write_settings(place, settings)
        elif options.listen or (options.no_tor and settings.tor):
            raise CbfsError(
                f"{place / 'host.toml'} says otherwise how this host is reached",
                "whom you have invited knows it by that: leave out --no-tor and --listen",
            )
        options.no_tor = not settings.tor
        work = _Work(place, settings, network_options(options), options.store_is_current)
        run(_serve, work, Manager())
    return 0


@dataclass(frozen=True, slots=True)
class _Work:
    place: Path
    settings: HostSettings
    network: NetworkOptions
    store_is_current: bool


@dataclass(slots=True)
class _Server:
    """A server that runs: ``url`` is what it has printed first."""

    name: str
    process: "subprocess.Popen[bytes]"
    url: str = ""


async def _serve(work: _Work, manager: Manager) -> None:
    """Run both servers until asked to end. Raises CbfsError when one of them ends by itself."""
    place, control = work.place, work.place / CONTROL
    servers: list[_Server] = []
    async with trio.open_nursery() as nursery:
        reread = partial(_reread, work, servers, manager)
        await nursery.start(until_asked, nursery.cancel_scope, reread, manager.stopping)
        async with _tor(work) as tor:
            write_file(control, tor.encode())
            try:
                for name in NAMES, SERVER:
                    servers.append(_started(work, name, tor))
                for each in servers:
                    nursery.start_soon(_watch, each)
                with trio.move_on_after(START_TIMEOUT) as waiting:
                    for each in servers:
                        each.url = await _first_line(each)
                if waiting.cancelled_caught:
                    raise CbfsError("the servers do not start", "what do they say, above?")
                _check(servers)
                write_file(place / ADDRESS, servers[1].url.encode() + b"\n")
                sys.stdout.write(f"{TOLD} {servers[1].url}\n")
                sys.stdout.write(f"invite somebody: cbfs invite NAME --host {place}\n")
                sys.stdout.flush()
                manager.ready(servers[1].url)
                await trio.sleep_forever()
            finally:
                control.unlink(missing_ok=True)
                with trio.CancelScope(shield=True):
                    await _end(servers)


def _reread(work: _Work, servers: list[_Server], manager: Manager) -> None:
    """At SIGHUP: give the servers the settings that the file has now. Each says itself what has
    changed, and what counts when it is started again."""
    manager.reloading()
    try:
        settings = read_settings(work.place) or work.settings
        if settings.tor != work.settings.tor:
            say(
                f"the settings stay as they were: {SETTINGS} has another tor than whom you have"
                " invited know this host by"
            )
        elif not all(each.url for each in servers):
            say("the servers have not started yet, and go by the settings of before: reload again")
        else:
            for each in servers:
                _write_settings(work.place, settings, each.name)
                with suppress(ProcessLookupError):
                    each.process.send_signal(signal.SIGHUP)
    except CbfsError as error:
        say(f"the settings stay as they were: {error.in_full}")
    except OSError as error:
        say(f"the settings stay as they were: {error.strerror}")
    manager.reloaded()


def _write_settings(place: Path, settings: HostSettings, name: str) -> Path:
    """The file of settings of one of the two servers. Raises OSError."""
    values = getattr(settings, name)
    if name == SERVER:  # whom its accounts invite needs a name as well
        values = {"names": str(place / NAMES), **values}
    file = place / f"{name}.toml"
    write_file(file, tomli_w.dumps(values).encode())
    return file


def _check(servers: list[_Server]) -> None:
    """Raises CbfsError unless each has told its address."""
    for server, scheme in zip(servers, (SCHEME, "cbfs"), strict=True):
        if not server.url:
            raise CbfsError(f"cbfs-{server.name} did not start", "it has said why, above")
        parse_address(server.url, scheme)


@asynccontextmanager
async def _tor(work: _Work) -> AsyncIterator[str]:
    """The control socket of the tor by which the servers are published, when it is connected; empty
    where there is none to be."""
    progress = NetworkProgress(say)
    async with reaching(work.network, work.place, SYSTEM_RANDOM, progress.tell) as network:
        progress.network = network
        if network.tor is None:
            yield ""
            return
        await connected(network, progress)
        yield network.tor.control


def _started(work: _Work, name: str, tor: str) -> _Server:
    """Start one of the two; it ends with this process, whatever becomes of that."""
    data, file = work.place / name, _write_settings(work.place, work.settings, name)
    command = [installed(f"cbfs-{name}"), "--data", str(data), "--settings", str(file)]
    if tor:
        command += ["--tor-control", tor]
    if name == NAMES and work.store_is_current:
        command.append("--store-is-current")
    unless_alone = "sh", "-c", _UNLESS_ALONE, str(os.getpid())
    try:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *unless_alone, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the host, which ends them in their turn
        )
    except OSError as error:
        raise CbfsError(
            f"cannot start cbfs-{name}: {error.strerror}", "is util-linux installed (setpriv)?"
        ) from error
    return _Server(name, process)


async def _first_line(server: _Server) -> str:
    """The first line that a server prints, empty when it ends before."""
    out = server.process.stdout
    if out is None:
        return ""
    line = await trio.to_thread.run_sync(out.readline, abandon_on_cancel=True)
    return line.decode("utf-8", "replace").strip()


async def _watch(server: _Server) -> None:
    """Raises CbfsError when a server ends."""
    await trio.to_thread.run_sync(server.process.wait, abandon_on_cancel=True)
    raise CbfsError(f"cbfs-{server.name} has ended", "it has said why, above")


async def _end(servers: list[_Server]) -> None:
    """End all servers, each within STOP_TIMEOUT."""
    for each in servers:
        with suppress(ProcessLookupError):
            each.process.send_signal(signal.SIGTERM)
    for each in servers:
        wait = partial(each.process.wait, STOP_TIMEOUT)
        try:
            await trio.to_thread.run_sync(wait)
        except subprocess.TimeoutExpired:
            each.process.kill()
            await trio.to_thread.run_sync(each.process.wait)
        if each.process.stdout is not None:
            each.process.stdout.close()
