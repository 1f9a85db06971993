"""The program cbfs-names: a name directory in one process, or one of the processes of it."""

import argparse
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cbfs_common.errors import DecodeError
from cbfs_common.names.config import Config, Terms, parse_config
from cbfs_common.names.policy import SCHEME
from cbfs_common.onion import PORT
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_common.profile import Address, parse_address
from cbfs_host.admin import answer_operators, operators_socket
from cbfs_host.admin_command import add_status, administer
from cbfs_host.complaints import StoreError
from cbfs_host.files import opened_data, trusted_path
from cbfs_host.garbage import look_less_for_cycles
from cbfs_host.listening import Place, listen_all, local, place_of
from cbfs_host.live_limits import LiveLimits, add_limits
from cbfs_host.logs import ServerLog, keep_going, log_to
from cbfs_host.metrics import listening_for_metrics, show
from cbfs_host.onion import Onion, chosen
from cbfs_host.program import start, until_asked
from cbfs_host.rereading import Rereading
from cbfs_host.settings import Current
from cbfs_host.store_copies import add_copying
from cbfs_host.systemd import Manager, passed_sockets
from cbfs_names.admin.figures import WatchedProcess
from cbfs_names.admin.metrics import FAMILIES, PREFIX
from cbfs_names.admin.operators import DirectoryOperators
from cbfs_names.commands.reconfigure import add_configure, add_submit
from cbfs_names.commands.settings import DEFAULT_LISTEN, DirectoryOptions, limits_of, parse
from cbfs_names.commands.tools import (
    PROGRAM,
    add_audit,
    add_compact,
    add_invite,
    add_key,
    chosen_terms,
    read_text,
)
from cbfs_names.limits import DirectoryLimits
from cbfs_names.processes.roles import Deployment, Role, SequencerRole, VerifierRole, shown
from cbfs_names.processes.single import Embedded, EmbeddedCore
from cbfs_names.state.keys import VERIFIER, ServerKeys, load_keys, load_namespace, write_file
from cbfs_names.state.store import StateStore
from cbfs_names.state.timekeeping import Timekeeper
from cbfs_names.wire.service import DirectoryService
from cbfs_names.wire.sockets import Clients, serve

_log = logging.getLogger(__name__)

TOOLS = {
    "key": add_key,
    "invite": add_invite,
    "audit": add_audit,
    "configure": add_configure,
    "submit": add_submit,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. 0 after a clean stop, 1 for a failure, 2 for wrong usage, 130
    after Ctrl-C before it serves."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["admin"]:
        commands = add_status, add_limits, add_copying, add_compact
        return start(PROGRAM, partial(administer, PROGRAM, given[1:], *commands))
    work = _tool if given and given[0] in TOOLS else _main
    return start(PROGRAM, partial(work, given))


def _main(arguments: list[str]) -> None:
    said, values, options = parse(arguments)
    manager, passed = Manager(), passed_sockets()
    random = Random(os.urandom, kem_encapsulate)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    limits = Current(limits_of(values))
    file = None if options.log is None else trusted_path(options.log)
    with opened_data(options.data, PROGRAM) as directory, ServerLog(file) as log:

        def apply(values: dict[str, Any]) -> None:
            limits.now = limits_of(values)
            log_to(log, PROGRAM, verbose=values["verbose"], kind=values["log_format"])

        apply(values)
        keys = load_keys(directory, random)
        onion = chosen(options, directory, random.token)
        begin = _starter(options, directory, keys, random, limits)
        places = options.listen or (() if passed else DEFAULT_LISTEN)
        metrics = listening_for_metrics(options.metrics, for_all=options.metrics_for_all)
        with listen_all(passed, places) as listeners, metrics as for_metrics:
            place = _public(options, listeners)
            work = DirectoryWork(
                *(directory, keys, begin, listeners, place, onion, random),
                *(manager, limits, for_metrics),
                Rereading(said, values, log, manager, apply),
            )
            trio.run(_run, work)


def _public(options: DirectoryOptions, listeners: Sequence[socket.socket]) -> Place:
    """Where clients are to come. Raises HostError, DecodeError."""
    if options.public is not None and options.public.port == 0:
        raise DecodeError("0 is not a port that clients can reach", "say which it is")
    first = place_of(listeners)
    named = options.listen[0].host if options.listen else first.host
    public = options.public or Place(named, first.port)
    if public.everywhere and not options.onion:
        raise DecodeError(
            f"clients cannot reach {public.host}", "say how they do: --public HOST:PORT"
        )
    return public


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
    options: DirectoryOptions,
    directory: Path,
    keys: ServerKeys,
    random: Random,
    limits: Current[DirectoryLimits],
) -> Start:
    """What the options ask for. Raises DecodeError, and StoreError where the store has gone."""
    if options.config is None:
        _check_history(directory)
        new = not (directory / "store").exists()
        terms = chosen_terms(options, directory, random, new=new)
        namespace = load_namespace(directory, options.namespace)
        config = keys.config(terms or Terms(), namespace)
        right = options.clock_is_right

        def service(store: StateStore) -> DirectoryService:
            _check_copy(store, options.store_is_current)
            return _service(store, config, keys, terms, right, limits)

        return Start(config, service)
    file = parse_config(read_text(options.config))
    url = options.sequencer_url
    sequencer = None if url is None else parse_address(url, SCHEME)
    peers = tuple(parse_address(peer, SCHEME) for peer in options.peer or ())
    current, right = options.store_is_current, options.clock_is_right
    place = Deployment(file, sequencer, peers, current, right, limits)
    role = SequencerRole if options.sequencer else VerifierRole
    first = file.config
    if options.first_config is not None:
        first = parse_config(read_text(options.first_config)).config

    def process(store: StateStore) -> Role:
        store.settle()  # copy or not: the others are asked what was signed
        return role(store, keys, directory, place, random)

    return Start(
        first,
        process,
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


def _check_copy(store: StateStore, store_is_current: bool) -> None:
    """Nobody else knows what a directory in one process has signed. Raises StoreError for a store
    that may not know it all either."""
    if store.is_copy and not store_is_current:
        raise StoreError(
            "the store is a copy: if anything was signed since it was made, whoever has seen that"
            " would refuse this directory for good",
            "if the directory has not run since, say so: --store-is-current; if it has, begin a new"
            " one: cbfs-names(8) says under FILES what else there is",
        )
    store.settle()


@dataclass(frozen=True, slots=True)
class DirectoryWork:
    """What there is before anything runs. ``public``: where clients come without an onion."""

    directory: Path
    keys: ServerKeys
    start: Start
    listeners: Sequence[socket.socket]
    public: Place
    onion: Onion | None
    random: Random
    manager: Manager
    limits: Current[DirectoryLimits]
    for_metrics: socket.socket | None
    rereading: Rereading


async def _run(work: DirectoryWork) -> None:
    async with trio.open_nursery() as nursery:
        reread, stopping = work.rereading.reread, work.manager.stopping
        await nursery.start(until_asked, nursery.cancel_scope, reread, stopping)
        await _answer(work)
        nursery.cancel_scope.cancel()


async def _answer(work: DirectoryWork) -> None:
    """Answer connections over the store in the directory, until cancelled."""
    directory, begin = work.directory, work.start
    store = StateStore(directory / "store", begin.config.encode())
    try:
        role = begin.role(store)
        try:
            async with _reached(work) as place:
                address = Address(work.keys.server, place.host, place.port)
                if begin.serves:
                    _show(directory, address, begin, shown(store))
                if isinstance(role, SequencerRole):
                    role.when_configured(lambda config: _show(directory, address, begin, config))
                clients = Clients(limits=work.limits)
                watched = WatchedProcess(directory, store, role, clients, clients.meters)
                await _serve(work, watched, address)
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
async def _reached(work: DirectoryWork) -> AsyncIterator[Place]:
    """Where clients find the directory. Raises OnionError."""
    if work.onion is None:
        yield work.public
        return
    # read in only here: other servers would be a sixth larger for stem
    from cbfs_host.onion_service import published  # noqa: PLC0415

    async with published(work.onion, local(place_of(work.listeners))) as host:
        yield Place(host, PORT)


def _service(
    store: StateStore,
    config: Config,
    keys: ServerKeys,
    terms: Terms | None,
    clock_is_right: bool,
    limits: Current[DirectoryLimits],
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
    return DirectoryService(store, EmbeddedCore(core, head), time.time, head, timekeeper, limits)


async def _serve(work: DirectoryWork, watched: WatchedProcess, address: Address) -> None:
    role, clients = watched.role, watched.clients
    limits = {"limits": LiveLimits(work.rereading).verb}
    verbs = DirectoryOperators(watched).verbs | limits
    with operators_socket(watched.data) as operators:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(role.run)
            keys, random = work.keys.transport, work.random
            for what, loop in (
                (
                    "accepting connections",
                    partial(serve, work.listeners, keys, random, role, clients),
                ),
                (
                    "answering operators",
                    partial(answer_operators, operators, verbs),
                ),
                ("counting", clients.meters.run),
            ):
                nursery.start_soon(keep_going, what, loop)
            show(nursery, work.for_metrics, PREFIX, FAMILIES, watched.figures)
            sys.stdout.write(address.url(SCHEME) + "\n")
            sys.stdout.flush()
            look_less_for_cycles()
            work.manager.ready(address.url(SCHEME))
            await work.manager.watch(watched.store.progress)


if __name__ == "__main__":
    sys.exit(main())
