"""The control connection to a tor: the one file of the client that knows stem.

Everything here blocks, as stem does; ``cbfs.network.tor.tor`` calls it in threads. Events are
handed to a listener in a thread of stem's, as the frozen values of ``cbfs.network.tor.events``.
"""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator

import stem
import stem.connection
import stem.control
import stem.process

from cbfs.network.tor.events import Bootstrap, Circuit, Event, Liveness, Stream, parse_bootstrap
from cbfs_common.errors import CbfsError
from cbfs_host.tor_control import controller

EVENTS = ("CIRC", "STREAM", "STATUS_CLIENT", "NETWORK_LIVENESS")


class ControlError(CbfsError):
    """A tor that cannot be used now. ``lasting``: trying again will not help before somebody has
    changed something."""

    lasting = False


class ControlRefused(ControlError):
    """A tor that is there and does not let us in, or something there that is not tor, or a
    configuration that tor refuses."""

    lasting = True


class TorSession:
    """A control connection to ``address``: a path, or ``HOST:PORT`` with a numeric host. All
    methods block and raise ControlError. ``close`` from another thread ends those that wait."""

    def __init__(self, address: str) -> None:
        self.address = address
        with _in_words(f"no tor answers at {address}"):
            self._controller = controller(address)

    def authenticate(self) -> None:
        """Proves that this user may use that tor; the first call of all. Raises ControlRefused
        when that fails or what answers is not tor."""
        _authenticate(self._controller, self.address)

    def get_info(self, key: str) -> str:
        """The answer to GETINFO, control-spec 3.9."""
        with _in_words("tor did not answer"):
            return str(self._controller.get_info(key))

    def bootstrap(self) -> Bootstrap:
        """How far tor has come."""
        return parse_bootstrap(self.get_info("status/bootstrap-phase"))

    def socks_listeners(self) -> list[tuple[str, int]]:
        """Addresses and ports where tor speaks SOCKS."""
        with _in_words("tor did not name its SOCKS port"):
            return [
                (str(host), int(port)) for host, port in self._controller.get_listeners("SOCKS")
            ]

    def socks_options(self) -> str:
        """The SocksPort lines of tor's configuration, for their flags."""
        with _in_words("tor did not tell its configuration"):
            return "\n".join(self._controller.get_conf("SocksPort", [], multiple=True))

    def circuits(self) -> list[Circuit]:
        """The circuits that there are."""
        with _in_words("tor did not list its circuits"):
            return [_circuit(found) for found in self._controller.get_circuits()]

    def listen(self, heard: Callable[[Event], None], closed: Callable[[], None]) -> None:
        """From now on gives each event to ``heard`` and the end of the connection to ``closed``,
        both in a thread of stem's."""

        def on_event(event: object) -> None:
            known = _event(event)
            if known is not None:
                heard(known)

        def on_status(controller: object, state: object, when: object) -> None:
            if state == stem.control.State.CLOSED:
                closed()

        with _in_words("tor did not agree to report"):
            self._controller.add_status_listener(on_status, spawn=False)
            self._controller.add_event_listener(on_event, *EVENTS)
        if not self._controller.is_alive():
            closed()

    def close_circuit(self, circuit: str) -> None:
        """Closes a circuit; one that has gone already is no error."""
        with _in_words("tor did not close a circuit"):
            try:
                self._controller.close_circuit(circuit)
            except (stem.InvalidRequest, stem.InvalidArguments):
                return

    def add_client_key(self, service: str, key: str) -> None:
        """Gives tor the key that a private onion service knows this client by: the service's
        56 characters, and an X25519 secret in base64."""
        self._client_key(f"ONION_CLIENT_AUTH_ADD {service} x25519:{key}")

    def remove_client_key(self, service: str) -> None:
        """Takes the key that ``add_client_key`` gave back from tor."""
        self._client_key(f"ONION_CLIENT_AUTH_REMOVE {service}")

    def client_keys(self) -> str:
        """Tor's own list of keys for private onion services. control-spec 3.32."""
        with _in_words("tor did not answer"):
            return str(self._controller.msg("ONION_CLIENT_AUTH_VIEW"))

    def _client_key(self, command: str) -> None:
        with _in_words("tor did not answer"):
            reply = self._controller.msg(command)
        if not reply.is_ok():
            raise ControlRefused(
                "tor refuses the key for a private server", "see the files in the folder onion_auth"
            )

    def close(self) -> None:
        """Ends the connection, and so the tor that it owns. Never raises. Ends calls that wait in
        other threads."""
        with contextlib.suppress(stem.ControllerError, OSError):
            self._controller.close()


def open_session(address: str) -> TorSession:
    """An authenticated session with the tor at ``address``, for programs that may wait for it."""
    session = TorSession(address)
    try:
        session.authenticate()
    except BaseException:
        session.close()
        raise
    return session


def _authenticate(connection: stem.control.Controller, address: str) -> None:
    """Raises ControlRefused with what the user can do."""
    try:
        connection.authenticate()
    except stem.connection.UnreadableCookieFile as error:
        raise ControlRefused(
            f"the tor at {address} has its cookie in a file that cannot be read",
            "join the group that may: adduser YOU debian-tor, and log in again",
        ) from error
    except stem.connection.CookieAuthFailed as error:
        raise ControlRefused(
            f"the tor at {address} does not know the cookie in the file that it names",
            "does a second tor write into its directory? restart tor",
        ) from error
    except (stem.connection.MissingPassword, stem.connection.NoAuthMethods) as error:
        raise ControlRefused(
            f"the tor at {address} wants a password",
            "put CookieAuthentication 1 into its torrc and reload it",
        ) from error
    except (stem.connection.AuthenticationFailure, stem.ControllerError) as error:
        raise ControlRefused(
            f"what answers at {address} is not the control port of a tor",
            "give its ControlPort or ControlSocket, not its SocksPort",
        ) from error


@contextlib.contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Turns stem's and the system's errors into ControlError."""
    try:
        yield
    except PermissionError as error:
        raise ControlRefused(
            f"{what}: this user may not use it",
            "join the group that may: adduser YOU debian-tor, and log in again",
        ) from error
    except (OSError, stem.SocketError) as error:
        raise ControlError(what, "is tor running? systemctl start tor") from error
    except (stem.ControllerError, ValueError) as error:
        raise ControlError(f"{what}: {error}") from error


def _event(event: object) -> Event | None:
    """The part of an event of stem's that the client goes by; None for one that it does not."""
    if isinstance(event, stem.response.events.CircuitEvent):
        return _circuit(event)
    if isinstance(event, stem.response.events.StreamEvent):
        user = event.keyword_args.get("SOCKS_USERNAME", "").strip('"')
        ended = event.status in ("CLOSED", "FAILED")
        return Stream(event.id, event.circ_id or "", user, ended, event.reason or "")
    if isinstance(event, stem.response.events.NetworkLivenessEvent):
        return Liveness(event.status == "UP")
    if isinstance(event, stem.response.events.StatusEvent):
        if event.action == "BOOTSTRAP":
            return parse_bootstrap(str(event))
        if event.action in ("CIRCUIT_ESTABLISHED", "CIRCUIT_NOT_ESTABLISHED"):
            return Liveness(event.action == "CIRCUIT_ESTABLISHED")
    return None


def _circuit(event: stem.response.events.CircuitEvent) -> Circuit:
    user = (event.socks_username or "").strip('"')
    ended = event.status in ("CLOSED", "FAILED")
    group = event.keyword_args.get("CONFLUX_ID", "")
    return Circuit(event.id, user, ended, event.purpose or "", group)


def launch(program: str, lines: Iterable[str]) -> "subprocess.Popen[bytes]":
    """Starts a tor with these torrc lines, owned by this process; returns as soon as it lives.

    The first ``open_session`` to it from this process becomes its owner: tor ends with that
    connection, and at the latest within a minute of this process. Raises ControlRefused when
    tor refuses the lines or cannot be run, ControlError for other failures to start.
    """
    config: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.strip().partition(" ")
        config.setdefault(key, []).append(value.strip())
    said: list[str] = []
    try:
        return stem.process.launch_tor_with_config(  # type: ignore[no-any-return]
            config,
            tor_cmd=program,
            completion_percent=0,
            init_msg_handler=said.append,
            timeout=None,
            take_ownership=True,
        )
    except OSError as error:
        raise _launch_error(program, said, error) from error


def _launch_error(program: str, said: list[str], error: OSError) -> ControlError:
    """What tor said before it ended. Its words can hold lines of the user's own torrc."""
    if not said:
        return ControlRefused(
            f"{program} cannot be run: {error}", "install it: apt-get install tor"
        )
    problems = [line.partition("] ")[2] for line in said if "[warn]" in line or "[err]" in line]
    for problem in problems:
        _, refused, why = problem.partition("Failed to parse/validate config: ")
        if refused:
            return ControlRefused(
                f"tor refuses its configuration: {why}", "mend the file that the line came from"
            )
    return ControlError(f"tor ended while it was starting: {problems[-1] if problems else error}")


def owner_of_listener(address: str) -> int | None:
    """The user id that listens at a control address of this machine, None when it cannot be told.

    Anybody may listen at port 9051 while no tor does, and would get all our traffic.
    """
    try:
        if "/" in address:
            return os.stat(address).st_uid  # noqa: PTH116
        host, _, port = address.rpartition(":")
        wanted = f"{socket.inet_aton(host)[::-1].hex().upper()}:{int(port):04X}"
        with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123
            rows = [row.split() for row in table]
    except (OSError, ValueError):
        return None
    return next((int(row[7]) for row in rows[1:] if row[1] == wanted and row[3] == "0A"), None)
