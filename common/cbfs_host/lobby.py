"""Where connections wait until they say something, without a task or a buffer for any.

A connection that is silent costs its descriptor and a place in one ``epoll``, which a thousand of
them a second are cheap to enter and to leave. Only who says something is worth more.
"""

import select
import socket

import trio


class Lobby:
    """Accepted sockets that have said nothing yet, the oldest first."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._silent: dict[int, tuple[socket.socket, float]] = {}

    def __len__(self) -> int:
        return len(self._silent)

    def add(self, sock: socket.socket) -> None:
        """Take in a non-blocking socket."""
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._silent[sock.fileno()] = sock, trio.current_time()

    def end_oldest(self) -> bool:
        """Close the socket that has been silent for longest; False when there is none."""
        for descriptor in self._silent:
            self._take(descriptor).close()
            return True
        return False

    def end_older(self, seconds: float) -> None:
        """Close those that have been silent for longer."""
        before = trio.current_time() - seconds
        for descriptor, (_, since) in tuple(self._silent.items()):
            if since >= before:
                return
            self._take(descriptor).close()

    async def spoke(self) -> list[socket.socket]:
        """Wait until somebody has said something, or is gone; they are out of the lobby."""
        await trio.lowlevel.wait_readable(self._epoll.fileno())
        return [self._take(descriptor) for descriptor, _ in self._epoll.poll(0)]

    def clear(self) -> None:
        """Close all that are still in it."""
        while self.end_oldest():
            pass

    def _take(self, descriptor: int) -> socket.socket:
        sock, _ = self._silent.pop(descriptor)
        self._epoll.unregister(descriptor)
        return sock
