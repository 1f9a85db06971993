"""The program cbfs-names: a name directory in one process, or one of the processes of it."""

import argparse
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from cbfs_common.errors import DecodeError
from cbfs_common.names.config import Config, Terms, parse_config
from cbfs_common.names.policy import SCHEME
from cbfs_common.onion import PORT
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_common.profile import Address, parse_address
from cbfs_host.files import opened_data, trusted_path
from cbfs_host.listening import Place, parse_place
from cbfs_host.lmdb_environment import StoreError
from cbfs_host.logs import ServerLog, add_log, keep_going, log_to
from cbfs_host.onion import Onion, add_options, chosen, published
from cbfs_host.program import start, until_asked
from cbfs_names.commands.reconfigure import add_configure, add_submit
from cbfs_names.commands.tools import (
    PROGRAM,
    add_audit,
    add_invite,
    add_key,
    add_terms,
    chosen_terms,
    read_text,
)
from cbfs_names.processes.roles import Deployment, Role, SequencerRole, VerifierRole, shown
from cbfs_names.processes.single import Embedded, EmbeddedCore
from cbfs_names.state.keys import VERIFIER, ServerKeys, load_keys, load_namespace, write_file
from cbfs_names.state.store import StateStore
from cbfs_names.state.timekeeping import Timekeeper
from cbfs_names.wire.service import DirectoryService
from cbfs_names.wire.sockets import listen, listening_port, serve

_log = logging.getLogger(__name__)

TOOLS = {
    "key": add_key,
    "invite": add_invite,
    "audit": add_audit,
    "configure": add_configure,
    "submit": add_submit,
}

_EPILOG = """example:
  cbfs-names --data /var/lib/cbfs-names --listen 127.0.0.1:7701

Prints its address on the first line, and writes DATA/policy, the file that clients are given.
With --sequencer or --verifier it is one of several processes: see cbfs-names(8).
Besides: cbfs-names key, invite, configure, submit, audit, each with --help.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. 0 after a clean stop, 1 for a failure, 2 for wrong usage, 130
    after Ctrl-C before it serves."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    work = _tool if given and given[0] in TOOLS else _main
    return start(PROGRAM, partial(work, given))


def _main(given: list[str]) -> None:
    options = _parse(given)
    random = Random(os.urandom, kem_encapsulate)
    listening = parse_place(options.listen, 0)
    public = listening if options.public is None else parse_place(options.public, 1, 1)
    if public.everywhere:
        raise DecodeError(
            f"clients cannot reach {public.host}", "say how they do: --public HOST:PORT"
        )
    file = None if options.log is None else trusted_path(options.log)
    with opened_data(options.data, PROGRAM) as directory, ServerLog(file) as log:
        level = logging.INFO if options.verbose else logging.WARNING
        log_to(log, level, "cbfs-names: %(message)s")
        keys = load_keys(directory, random)
        onion = chosen(options, directory, random.token)
        begin = _starter(options, directory, keys, random)
        answer = partial(_answer, directory, keys, begin, listening, public, onion, random)
        trio.run(_run, answer, log)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cbfs-names",
        description="A name directory for cbfs: who has which name, provable to everybody.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="keys, store and policy; made new"
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="where to accept connections; port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--public",
        metavar="HOST:PORT",
        help="how clients reach it, when that is not the address of --listen",
    )
    role = parser.add_mutually_exclusive_group()
    role.add_argument("--sequencer", action="store_true", help="order rounds; verifiers elsewhere")
    role.add_argument("--verifier", action="store_true", help="check and sign a sequencer's rounds")
    parser.add_argument("--config", type=Path, metavar="FILE", help="keys, groups, quorum, terms")
    parser.add_argument(
        "--first-config",
        type=Path,
        metavar="FILE",
        help="of the directory's first round, for a new store when FILE is another by now",
    )
    parser.add_argument("--sequencer-url", metavar="URL", help="if FILE does not say it")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="URL",
        help="another verifier, if FILE does not say it; may be repeated",
    )
    parser.add_argument(
        "--store-is-current",
        action="store_true",
        help="your word that DIR is no old copy: do not wait until peers have said so",
    )
    parser.add_argument(
        "--clock-is-right",
        action="store_true",
        help="your word that this computer's clock is right, when the log says that it has jumped",
    )
    add_terms(parser)
    add_log(parser)
    parser.add_argument("--verbose", action="store_true", help="log rounds as well")
    add_options(parser)
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exits with 2 when what was said does not go together."""
    if (options.sequencer or options.verifier) != (options.config is not None):
        parser.error("--config goes with --sequencer or --verifier")
    if (options.store_is_current or options.first_config) and options.config is None:
        parser.error("--store-is-current and --first-config go with --sequencer or --verifier")
    if options.config and (options.registration is not None or options.short is not None):
        parser.error("with --config, registration and short stand in FILE")
    if options.config and options.namespace is not None:
        parser.error("with --config, the namespace stands in FILE")
    if not options.verifier and (options.sequencer_url or options.peer):
        parser.error("--sequencer-url and --peer go with --verifier")


def _tool(given: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {given[0]}")
    TOOLS[given[0]](parser)
    options = parser.parse_args(given[1:])
    options.run(options)


@dataclass(frozen=True, slots=True)
class Start:
    """``config``: of a new store. ``role``: what runs over it. ``serves``: clients come here.
    ``urls``: where verifiers are, by name."""

    config: Config
    role: Callable[[StateStore], Role]
    serves: bool = True
    urls: dict[str, Address] = field(default_factory=dict)


def _starter(
    options: argparse.Namespace, directory: Path, keys: ServerKeys, random: Random
) -> Start:
    """What the options ask for. Raises DecodeError, and StoreError where the store has gone."""
    if options.config is None:
        _check_history(directory)
        terms = chosen_terms(options, directory, random)
        namespace = load_namespace(directory, options.namespace)
        config = keys.config(terms or Terms(), namespace)
        return Start(
            config, lambda store: _service(store, config, keys, terms, options.clock_is_right)
        )
    file = parse_config(read_text(options.config))
    url = options.sequencer_url
    sequencer = None if url is None else parse_address(url, SCHEME)
    peers = tuple(parse_address(peer, SCHEME) for peer in options.peer)
    place = Deployment(file, sequencer, peers, options.store_is_current, options.clock_is_right)
    role = SequencerRole if options.sequencer else VerifierRole
    first = file.config
    if options.first_config is not None:
        first = parse_config(read_text(options.first_config)).config
    return Start(
        first,
        lambda store: role(store, keys, directory, place, random),
        serves=options.sequencer,
        urls=file.urls,
    )


def _check_history(directory: Path) -> None:
    """The policy is written when the store is there. One that begins anew would sign another
    history with the same keys, which nobody else could tell from the first."""
    if (directory / "policy").exists() and not (directory / "store").exists():
        raise StoreError(
            f"{directory / 'store'} is missing, with all names and rounds",
            "put it back where it was, but no old copy: cbfs-names(8) says why, under FILES;"
            " a new directory begins in an empty --data",
        )


async def _run(answer: Callable[[], Awaitable[None]], log: ServerLog) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(until_asked, nursery.cancel_scope, log.reopen)
        await answer()
        nursery.cancel_scope.cancel()


async def _answer(
    directory: Path,
    keys: ServerKeys,
    start: Start,
    listening: Place,
    public: Place,
    onion: Onion | None,
    random: Random,
) -> None:
    """Answer connections at ``listening`` over the store in ``directory``, until cancelled."""
    listener = await listen(listening.host, listening.port)
    async with listener:
        port = listening_port(listener)
        store = StateStore(directory / "store", start.config.encode())
        try:
            role = start.role(store)
            try:
                async with _reached(onion, public, port) as place:
                    address = Address(keys.server, place.host, place.port)
                    if start.serves:
                        _show(directory, address, start, shown(store))
                    if isinstance(role, SequencerRole):
                        role.when_configured(
                            lambda config: _show(directory, address, start, config)
                        )
                    await _serve(listener, keys, random, role, address)
            finally:
                role.close()
        finally:
            store.close()


def _show(directory: Path, address: Address, start: Start, config: Config) -> None:
    """The files for clients, and for ``cbfs-names invite``."""
    names = {name for name, _ in config.witnesses}
    urls = tuple(each for each in start.urls.items() if each[0] in names)
    policy = replace(config.policy(address), urls=urls)
    weaker = replace(policy, degraded=config.degraded(address))
    for name, made in ("policy", policy), ("policy.degraded", weaker):
        write_file(directory / name, made.encode().encode("ascii"), 0o644)
    write_file(directory / "config", config.encode().encode("ascii"), 0o644)


@asynccontextmanager
async def _reached(onion: Onion | None, public: Place, port: int) -> AsyncIterator[Place]:
    """Where clients find the directory that listens on ``port``. Raises OnionError."""
    if onion is None:
        yield Place(public.host, public.port or port)
        return
    async with published(onion, port) as host:
        yield Place(host, PORT)


def _service(
    store: StateStore, config: Config, keys: ServerKeys, terms: Terms | None, clock_is_right: bool
) -> DirectoryService:
    timekeeper = Timekeeper(store, is_right=clock_is_right)
    name = dict(config.witnesses)[VERIFIER].name
    core = Embedded(store, keys.log, keys.verifier, name)
    now = int(time.time())
    head = core.start(now)
    if terms is not None and timekeeper.doubted:
        _log.error("the terms stay as they were: this computer's clock has jumped ahead")
    elif terms is not None:
        changed = core.change_terms(terms, now)
        if changed is not None:
            _log.warning("the terms have changed: give clients the new policy file")
            head = changed
    return DirectoryService(store, EmbeddedCore(core, head), time.time, head, timekeeper)


async def _serve(
    listener: trio.SocketListener,
    keys: ServerKeys,
    random: Random,
    service: Role,
    address: Address,
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        answer = partial(serve, listener, keys.transport, random, service)
        nursery.start_soon(keep_going, "accepting connections", answer)
        sys.stdout.write(address.url(SCHEME) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
