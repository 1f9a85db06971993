"""A private Tor network on loopback: real ``tor`` processes and no others' network.

``cbfs demo --tor`` and the tests run over it. One directory authority, three relays, one client
and one host of onion services are started by a guardian, a process of its own
(``python -m cbfs.network.tor.private_network DIRECTORY``). The guardian holds the control
connection that owns each tor, and ends when its standard input does. So the network goes, with its
directory, however the program ends that asked for it: by return, by exception or by SIGKILL.
"""

import contextlib
import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cbfs.network.tor.control import ControlError, TorSession, launch, open_session
from cbfs.network.tor.segments import BORROWABLE, shorten_segments
from cbfs_common.errors import CbfsError, in_words

START_TIMEOUT = 60.0
"""Seconds from nothing to two ends that can build circuits. Usual are 10 to 15."""

BUILD_TIMEOUT = 60
"""Seconds that a circuit may take to be built. Left to itself tor learns from the circuits of a
quiet machine that 60 ms are enough. On a busy one each takes longer, a service gives a meeting up
after two that did, and its client waits for a minute and more."""

STOP_TIMEOUT = 20.0
"""Seconds that the guardian has to end the processes and to remove the directory."""

EXIT_TIMEOUT = 5.0
"""Seconds that the guardian gives all the processes together; then it kills them."""

INITIAL_INTERVALS = (5, 10, 30)
"""Seconds between votes until there is a first consensus, at each try: on a busy machine a relay is
not known yet when the first vote of a short interval is taken."""

VOTING_INTERVAL = 3_600
"""Seconds between votes after it. Each vote moves the places of onion services, and connections
of that moment fail: a long interval keeps the network quiet."""

POLL = 0.1
"""Seconds between questions."""

NUDGE = 5
"""Questions after which a relay is told to look again."""

RELAYS = ("relay1", "relay2", "relay3")
ENDS = ("client", "host")
SEEDS = ("cached-certs", "cached-microdesc-consensus", "cached-microdescs.new")
PASSPHRASE = b"a key that lives as long as the network\n"


class NetworkError(CbfsError):
    """The private network did not come up, or has gone."""


@dataclass(frozen=True, slots=True)
class PrivateTorNetwork:
    """A running private network, seen from the program that started it."""

    directory: Path
    torrc: tuple[str, ...]
    """The lines with which another tor joins it as a client."""
    pids: Mapping[str, int]
    """Processes: authority, relay1 to relay3, client, host."""

    def control(self, name: str) -> str:
        """The control socket of ``client`` or ``host``."""
        return str(self.directory / name / "control")

    def seed(self, data_directory: Path) -> None:
        """Gives a client's new data directory what it would download first, so that it is
        bootstrapped in a moment."""
        data_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _seed(self.directory / "client", data_directory)


@contextlib.contextmanager
def running_network(
    progress: Callable[[str], None], parent: Path | None = None
) -> Iterator[PrivateTorNetwork]:
    """A private network for the length of the ``with``. ``progress`` gets a word at each step.

    Its directory is a new one in ``parent``, by default the system's temporary directory, and
    is gone afterwards. Raises NetworkError.
    """
    for program in ("tor", "tor-gencert"):
        if shutil.which(program) is None:
            raise NetworkError(f"no program {program}", "install it: apt-get install tor")
    directory = Path(tempfile.mkdtemp(prefix="cbfs-tor-", dir=parent))
    guardian = subprocess.Popen(
        [sys.executable, "-m", "cbfs.network.tor.private_network", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield _read_announcement(guardian, directory, progress)
    finally:
        if guardian.stdin is not None:
            guardian.stdin.close()
        try:
            guardian.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            guardian.kill()
            guardian.wait()
        if guardian.stdout is not None:
            guardian.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)


def _read_announcement(
    guardian: "subprocess.Popen[bytes]", directory: Path, progress: Callable[[str], None]
) -> PrivateTorNetwork:
    """Follows the guardian's lines until the network stands."""
    for line in guardian.stdout or ():
        said = json.loads(line)
        if "error" in said:
            raise NetworkError(
                said["error"], "try again; `tor --version` should say 0.4.7 or newer"
            )
        if "step" in said:
            progress(said["step"])
        else:
            return PrivateTorNetwork(directory, tuple(said["torrc"]), said["pids"])
    raise NetworkError("the private Tor network ended while it was starting")


# ---- the guardian ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Guardian:
    """Builds the network and holds it."""

    directory: Path
    deadline: float
    interval: int
    """Seconds between the first votes."""
    sessions: dict[str, TorSession] = field(default_factory=dict)
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def build(self) -> None:
        """All steps from an empty directory to two ends with circuits. Raises NetworkError,
        ControlError, OSError or subprocess.CalledProcessError."""
        say(step="making the authority's keys")
        shared = _make_authority(self.directory / "authority", self.interval)
        torrc = shared.lines
        _wait_for(self.interval)
        say(step="starting an authority and three relays")
        self._start_relay("authority", (*torrc, *shared.own_lines))
        for name in RELAYS:
            self._start_relay(name, (*torrc, "ORPort 127.0.0.1:auto", f"Nickname {name}"))
        say(step="waiting for the first consensus")
        self._wait("authority", _has_consensus)
        if not _has_all_relays(self.sessions["authority"]):
            raise NetworkError("the first consensus lacks a relay")
        for name in ("authority", *RELAYS):
            self._wait(name, _has_directory)
        say(step="starting a client and a host of onion services")
        client = (*torrc, *CLIENT_LINES)
        for name in ENDS:
            _seed(self.directory / "authority", self._data(name))
            self._start(name, (*client, "SocksPort auto ExtendedErrors"))
        for name in ENDS:
            self._wait(name, _has_directory)
        say(torrc=client, pids={name: process.pid for name, process in self.processes.items()})

    def close(self) -> None:
        """Ends every process. The directory can go afterwards."""
        for session in self.sessions.values():
            session.close()
        deadline = time.monotonic() + EXIT_TIMEOUT
        for process in self.processes.values():
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _data(self, name: str) -> Path:
        directory = self.directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory

    def _start(self, name: str, lines: tuple[str, ...]) -> None:
        directory = self._data(name)
        own = (f"DataDirectory {directory}", f"ControlSocket {directory}/control", *COMMON_LINES)
        self.processes[name] = launch("tor", (*own, *lines))
        self.sessions[name] = open_session(f"{directory}/control")

    def _start_relay(self, name: str, lines: tuple[str, ...]) -> None:
        self._start(name, (*RELAY_LINES, BORROWABLE, *lines))
        with contextlib.suppress(OSError):  # slower, but it works
            shorten_segments(self.processes[name].pid)

    def _wait(self, name: str, ready: Callable[[TorSession], bool]) -> None:
        """Asks a node until it says yes: tor has no event for what is waited for here. A SIGHUP
        makes it look for the directory now, and not when its growing pauses have passed."""
        for attempt in itertools.count(1):
            if ready(self.sessions[name]):
                return
            if time.monotonic() > self.deadline:
                raise NetworkError(f"the private network's {name} was not ready in time")
            time.sleep(POLL)
            if attempt % NUDGE == 0 and name in RELAYS:
                self.processes[name].send_signal(signal.SIGHUP)


COMMON_LINES = (
    "CookieAuthentication 1",
    "ShutdownWaitLength 0",
    "GeoIPFile /dev/null",
    "GeoIPv6File /dev/null",
    "__ReloadTorrcOnSIGHUP 0",
)
CLIENT_LINES = ("ClientRejectInternalAddresses 0",)
RELAY_LINES = (
    "Address 127.0.0.1",
    "AssumeReachable 1",
    "ExitRelay 1",
    "ExitPolicyRejectPrivate 0",
    "ExitPolicy accept *:*",
    "ContactInfo none",
    "SocksPort 0",
)


@dataclass(frozen=True, slots=True)
class _Authority:
    lines: tuple[str, ...]
    """For every node."""
    own_lines: tuple[str, ...]
    """For the authority alone."""


def _make_authority(directory: Path, interval: int) -> _Authority:
    """The authority's certificate and relay key, and the torrc lines that follow from them."""
    keys = directory / "keys"
    keys.mkdir(mode=0o700, parents=True)
    directory.chmod(0o700)
    or_port, dir_port = _free_ports(2)
    certificate = keys / "authority_certificate"
    command = ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12"]
    command += ["-a", f"127.0.0.1:{dir_port}", "-i", str(keys / "authority_identity_key")]
    command += ["-s", str(keys / "authority_signing_key"), "-c", str(certificate)]
    _run(command, PASSPHRASE)
    fields = dict(
        line.split(" ", 1) for line in certificate.read_text().splitlines() if " " in line
    )
    identity = fields["fingerprint"]
    own = (
        "AuthoritativeDirectory 1",
        "V3AuthoritativeDirectory 1",
        "Nickname authority",
        f"ORPort 127.0.0.1:{or_port}",
        f"DirPort 127.0.0.1:{dir_port}",
        f"TestingV3AuthInitialVotingInterval {interval}",
        "TestingV3AuthInitialVoteDelay 2",
        "TestingV3AuthInitialDistDelay 2",
        f"V3AuthVotingInterval {VOTING_INTERVAL}",
        "V3AuthVoteDelay 2",
        "V3AuthDistDelay 2",
        "V3AuthNIntervalsValid 3",
    )
    fingerprint = _relay_fingerprint(directory, (*RELAY_LINES, *own))
    lines = (
        "TestingTorNetwork 1",
        f"DirAuthority authority orport={or_port} no-v2 v3ident={identity} "
        f"127.0.0.1:{dir_port} {fingerprint}",
        "PathsNeededToBuildCircuits 0.67",
        "TestingDirAuthVoteExit *",
        "TestingDirAuthVoteHSDir *",
        "TestingDirAuthVoteGuard *",
        "TestingMinExitFlagThreshold 0",
        "LearnCircuitBuildTimeout 0",
        f"CircuitBuildTimeout {BUILD_TIMEOUT}",
    )
    return _Authority(lines, own)


def _relay_fingerprint(directory: Path, lines: tuple[str, ...]) -> str:
    """The fingerprint of the authority as a relay; makes its relay keys."""
    known = "DirAuthority authority orport=1 no-v2 v3ident=" + "0" * 40 + " 127.0.0.1:1 " + "0" * 40
    torrc = "\n".join((f"DataDirectory {directory}", "TestingTorNetwork 1", known, *lines, ""))
    said = _run(["tor", "--quiet", "-f", "-", "--list-fingerprint"], torrc.encode())
    return said.decode().split(" ", 1)[1].replace(" ", "").strip()


def _run(arguments: list[str], given: bytes) -> bytes:
    """What a program prints. Raises subprocess.CalledProcessError."""
    return subprocess.run(
        arguments, input=given, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            ports.append(taken.getsockname()[1])
        return ports


def _wait_for(interval: int) -> None:
    """Until a voting interval begins. From there the first consensus took 5.2 to 5.4 s in all of
    ten runs (of intervals of 5 s); from other moments of the interval some votes missed a relay,
    and took 20 s."""
    time.sleep(-time.time() % interval)


def _seed(source: Path, data_directory: Path) -> None:
    for name in SEEDS:
        if (source / name).exists():
            shutil.copyfile(source / name, data_directory / name)


CONSENSUS = "dir/status-vote/current/consensus"


def _has_consensus(authority: TorSession) -> bool:
    try:
        return bool(authority.get_info(CONSENSUS))
    except ControlError:
        return False


def _has_all_relays(authority: TorSession) -> bool:
    """Whether the consensus names all relays, as running and with onion service directories."""
    consensus = authority.get_info(CONSENSUS)
    flags = [line.split() for line in consensus.splitlines() if line.startswith("s ")]
    usable = [found for found in flags if {"HSDir", "Running"} <= set(found)]
    return len(usable) == len(RELAYS) + 1


def _has_directory(node: TorSession) -> bool:
    return node.get_info("status/enough-dir-info") == "1"


def say(**what: object) -> None:
    """One line to the program that started the guardian."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(directory: Path) -> None:
    """The guardian: builds, then holds the network until standard input ends."""
    try:
        for interval in INITIAL_INTERVALS:
            if _hold(directory, interval, last=interval == INITIAL_INTERVALS[-1]):
                return  # else anew: a first consensus without one of the relays stays for an hour
    except BrokenPipeError:
        return  # nobody is left who could be told
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _hold(directory: Path, interval: int, *, last: bool) -> bool:
    """Builds and holds it. True at the end, False when it did not come up."""
    directory.mkdir(mode=0o700, exist_ok=True)
    guardian = _Guardian(directory, time.monotonic() + START_TIMEOUT + 2 * interval, interval)
    try:
        guardian.build()
        sys.stdin.buffer.read()
    except BrokenPipeError:
        raise
    except (CbfsError, OSError, subprocess.CalledProcessError, KeyError, IndexError) as error:
        if last:
            say(error=f"the private Tor network did not start: {in_words(error)}")
        else:
            say(step=f"beginning anew: {in_words(error)}")
        return False
    finally:
        guardian.close()
        shutil.rmtree(directory, ignore_errors=True)
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
