"""Three PostgreSQL servers under Patroni, with three etcd, on loopback: what an operator would run
on three machines. What is committed is on the disks of the primary and of at least one other."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.support.postgres import (
    USER,
    as_user,
    free_ports,
    place_for,
    programs,
    wait_until,
)

NODES = 3

INITDB = [{"encoding": "UTF8"}, "data-checksums"]
SETTINGS: dict[str, Any] = {
    "ttl": 20,  # seconds without a sign of the primary: Patroni's least
    "loop_wait": 2,
    "retry_timeout": 5,
    "synchronous_mode": "quorum",
    "synchronous_mode_strict": True,
    "synchronous_node_count": 1,
    "postgresql": {
        "use_pg_rewind": True,
        "parameters": {
            "wal_keep_size": "2GB",
            "min_wal_size": "2GB",
            "max_wal_size": "8GB",
            "checkpoint_timeout": "15min",
            "shared_buffers": "1GB",
            "max_connections": 200,
            "log_statement": "none",
            "log_min_duration_statement": -1,
            "log_min_error_statement": "panic",
            "track_commit_timestamp": False,
            "archive_mode": False,
        },
    },
}
"""What docs/operating.rst says that is needed, and no more."""

DATABASE = "cbfs"


@dataclass
class Program:
    """A program of the cluster, which can be started again."""

    command: list[str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it; it appends to its log."""
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=file)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class Node:
    """PostgreSQL and the Patroni that looks after it: one machine."""

    name: str
    port: int
    api: int
    data: Path
    patroni: Program

    @property
    def address(self) -> str:
        """The address of its ``postgres`` database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def pids(self) -> list[int]:
        """Its processes."""
        process = self.patroni.process
        found = [process.pid] if process is not None and process.poll() is None else []
        try:
            found.append(int((self.data / "postmaster.pid").read_text().split()[0]))
        except (OSError, IndexError, ValueError):
            return found
        for pid in found:
            found += _children(pid)
        return sorted(set(found))

    def signal(self, number: int) -> None:
        """Give it to all processes of the machine at once."""
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self) -> None:
        """The machine loses its power."""
        self.signal(signal.SIGSTOP)
        self.signal(signal.SIGKILL)
        self.patroni.kill()

    def start(self) -> None:
        """The machine has power again."""
        self.patroni.start()

    def execute(self, text: str) -> list[Any]:
        """The rows of a statement."""
        with psycopg.connect(self.address, autocommit=True, connect_timeout=2) as connection:
            found = connection.execute(text.encode())
            return found.fetchall() if found.description else []

    def is_primary(self) -> bool:
        """Whether it says so."""
        try:
            return self.execute("SELECT pg_is_in_recovery()") == [(False,)]
        except psycopg.OperationalError:
            return False


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


@dataclass
class Cluster:
    """The machines, and the etcd that they agree by."""

    nodes: list[Node]
    etcd: list[Program]
    logs: list[Path]

    @property
    def address(self) -> str:
        """Of the database, for a server: all machines."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://{USER}@{hosts}/{DATABASE}"

    def primary(self) -> Node:
        """The machine that takes writes."""
        return next(node for node in self.nodes if node.is_primary())

    def standbys(self) -> list[Node]:
        """The others."""
        primary = self.primary()
        return [node for node in self.nodes if node is not primary]

    def whole(self) -> bool:
        """All standbys follow, and are known as those of which one must have what is committed:
        before that, Patroni would put none of them in the place of a primary that is lost."""
        found = sorted((each["role"], each["state"]) for each in members(self))
        return found == [("leader", "running")] + [("quorum_standby", "streaming")] * (NODES - 1)

    def wait(self) -> None:
        """Until it is whole."""
        wait_until(self.whole, *self.logs)


@contextmanager
def running_cluster(*, memory: bool = False) -> Iterator[Cluster]:
    """A cluster of its own, whole."""
    with place_for("cluster", memory=memory) as place, ExitStack() as stack:
        ports = free_ports(2 * NODES + 2 * NODES)
        etcd = _etcd(place, ports[: 2 * NODES])
        client_ports = ports[:NODES]
        nodes = [
            _node(place, f"n{i + 1}", ports[2 * NODES + i], ports[3 * NODES + i], client_ports)
            for i in range(NODES)
        ]
        cluster = Cluster(nodes, etcd, [each.patroni.log for each in nodes])
        stack.callback(_end, cluster)
        for each in etcd:
            each.start()
        nodes[0].start()
        wait_until(nodes[0].is_primary, nodes[0].patroni.log, etcd[0].log)
        for node in nodes[1:]:
            node.start()
        cluster.wait()
        cluster.primary().execute(f"CREATE DATABASE {DATABASE}")
        yield cluster


def _end(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.kill()
    for each in cluster.etcd:
        each.kill()


def _etcd(place: Path, ports: list[int]) -> list[Program]:
    clients, peers = ports[:NODES], ports[NODES:]
    names = [f"e{i + 1}" for i in range(NODES)]
    members = ",".join(f"{n}=http://127.0.0.1:{p}" for n, p in zip(names, peers, strict=True))
    programs_ = []
    for name, client, peer in zip(names, clients, peers, strict=True):
        command = [
            *("etcd", "--name", name, "--data-dir", str(place / name)),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", members, "--initial-cluster-state", "new"),
            *("--heartbeat-interval", "100", "--election-timeout", "1000"),
        ]
        programs_.append(Program(as_user(command, "KILL"), place / f"{name}.log"))
    return programs_


def _node(place: Path, name: str, port: int, api: int, etcd: list[int]) -> Node:
    data = place / name
    config = {
        "scope": "cbfs",
        "name": name,
        "restapi": {"listen": f"127.0.0.1:{api}", "connect_address": f"127.0.0.1:{api}"},
        "etcd3": {"hosts": [f"127.0.0.1:{each}" for each in etcd]},
        "bootstrap": {
            "dcs": SETTINGS,
            "initdb": [*INITDB, {"locale": "C"}],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{port}",
            "connect_address": f"127.0.0.1:{port}",
            "data_dir": str(data),
            "bin_dir": str(programs()),
            "pgpass": str(place / f"{name}.pgpass"),
            "authentication": {
                "superuser": {"username": USER},
                "replication": {"username": USER},
                "rewind": {"username": USER},
            },
            "parameters": {"unix_socket_directories": str(place), "shared_buffers": "64MB"},
            "pg_hba": [
                "local all all trust",
                "host all all 127.0.0.1/32 trust",
                "host replication all 127.0.0.1/32 trust",
            ],
        },
    }
    path = place / f"{name}.yml"
    path.write_text(json.dumps(config))  # which is YAML as well
    path.chmod(0o644)
    command = as_user([sys.executable, "-m", "patroni", path], "TERM")
    return Node(name, port, api, data, Program(command, place / f"{name}.log"))


def members(cluster: Cluster) -> list[dict[str, Any]]:
    """What Patroni says of the machines."""
    for node in cluster.nodes:
        try:
            place = f"http://127.0.0.1:{node.api}/cluster"
            with urllib.request.urlopen(place, timeout=2) as answer:
                found: list[dict[str, Any]] = json.load(answer)["members"]
                return found
        except OSError:
            continue
    return []
