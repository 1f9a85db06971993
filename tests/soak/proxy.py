"""A TCP proxy on loopback that misbehaves: it refuses, resets, garbles, stalls and slows down the
connections that go through it. Seeded, so that a run can be repeated as far as the machine does.
When it is calm, it only spreads connections over several servers."""

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator

READ_SIZE = 65_536
REACH = 300_000
"""Bytes of a connection before the latest fault in it."""

STALL = 8.0
"""Seconds that a stalled connection stays open, at most."""

KINDS = ("pass", "pass", "pass", "refuse", "reset", "garble", "stall", "slow")
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """In front of ``ports``, each of them in its turn if it takes connections; listens on
    ``self.port``. ``faults`` counts what it did, ``carried`` the connections to each."""

    def __init__(self, seed: int, *ports: int) -> None:
        self.faults = 0
        self.carried: Counter[int] = Counter()
        self.ports = ports
        self._turn = 0
        self._random = random.Random(seed)
        self._calm = threading.Event()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def calm(self) -> None:
        """From now on everything passes."""
        self._calm.set()

    def rage(self) -> None:
        """From now on it misbehaves again."""
        self._calm.clear()

    def close(self) -> None:
        """Accept nothing more."""
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            kind = "pass" if self._calm.is_set() else self._random.choice(KINDS)
            reach = self._random.randrange(REACH)
            self._turn += 1
            start = self._turn % len(self.ports)
            ports = (*self.ports[start:], *self.ports[:start])
            arguments = client, kind, reach, ports
            threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def _serve(self, client: socket.socket, kind: str, reach: int, ports: tuple[int, ...]) -> None:
        if kind == "refuse":
            self.faults += 1
            _reset(client)
            return
        server = self._reach(ports)
        if server is None:
            _reset(client)
            return
        up = threading.Thread(target=self._pump, args=(client, server, kind, reach), daemon=True)
        up.start()
        self._pump(server, client, kind if kind != "garble" else "pass", reach)

    def _reach(self, ports: tuple[int, ...]) -> socket.socket | None:
        for port in ports:
            with contextlib.suppress(OSError):
                server = socket.create_connection(("127.0.0.1", port), timeout=10)
                server.settimeout(None)
                self.carried[port] += 1
                return server
        return None

    def _pump(self, source: socket.socket, target: socket.socket, kind: str, reach: int) -> None:
        """Until the connection ends or its fault comes."""
        passed = 0
        try:
            while data := source.recv(READ_SIZE):
                passed += len(data)
                if kind == "slow" and not self._calm.wait(0.05):
                    pass
                elif kind not in ("pass", "slow") and passed > reach and not self._calm.is_set():
                    self.faults += 1
                    if kind == "stall":
                        self._calm.wait(STALL)
                    if kind != "garble":
                        return
                    data = bytes([data[0] ^ 1]) + data[1:]
                    kind = "pass"
                target.sendall(data)
        except OSError:
            pass
        finally:
            _reset(source)
            _reset(target)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        sock.close()


@contextlib.contextmanager
def proxy(seed: int, *ports: int) -> Iterator[Proxy]:
    """Ends with the block."""
    made = Proxy(seed, *ports)
    try:
        yield made
    finally:
        made.close()
