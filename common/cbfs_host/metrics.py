"""Figures of a server for Prometheus: OpenMetrics text, answered to ``GET /metrics`` by HTTP.

No figure is anybody's. Whoever can reach the address may read them all, so it is one of this
machine unless the operator says otherwise. Text and parsing are libraries' (prometheus_client and
h11), which are read in only where figures are asked for.
"""

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cbfs_common.errors import CbfsError, in_words
from cbfs_host.complaints import HostError
from cbfs_host.counts import tell_counts
from cbfs_host.listening import Place, listen, listen_locally, parse_place
from cbfs_host.logs import keep_going, tell_fault
from cbfs_host.settings import SWITCH, Kind, ServerSetting

if TYPE_CHECKING:
    import h11

CLIENTS_MAX: Final = 8
"""Connections at once; others wait in the kernel's queue."""

REQUEST_TIMEOUT: Final = 10.0
"""Seconds for a request to come and its answer to go."""

REQUEST_MAX: Final = 16_384
"""Bytes of a request's head, as of h11."""

READ_SIZE: Final = 4_096

UNIX: Final = "unix:"

PLAIN: Final = "text/plain; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_log = logging.getLogger(__name__)


def _parse_place(text: str) -> Place | Path:
    if text.startswith(UNIX) and len(text) > len(UNIX):
        return Path(text.removeprefix(UNIX))
    return parse_place(text, 0, 1)


SETTINGS: Final = (
    ServerSetting(
        "metrics",
        Kind(str, 'HOST:PORT, like "127.0.0.1:9711", or "unix:/PATH"', _parse_place),
        "answer there with figures for Prometheus, at /metrics",
        "HOST:PORT|unix:PATH",
    ),
    ServerSetting(
        "metrics-for-all",
        SWITCH,
        "let --metrics be an address that other machines reach, although whoever does can read"
        " the figures",
        default=False,
    ),
)
"""What an operator sets of the figures."""


@dataclass(frozen=True, slots=True)
class Family:
    """How one field of a server's figures is exported: as ``name``; with a ``label`` for its words
    when it has some. ``counter``: of what has happened since the start, else of what there is.
    ``help``: one line."""

    field: str
    name: str
    help: str
    label: str = ""
    counter: bool = False


class Exporter:
    """The text of a server's figures. ``prefix``: how all names begin. ``figures`` makes a
    dataclass with the fields of the ``families``; its fields that are texts say what runs."""

    def __init__(self, prefix: str, families: Sequence[Family], figures: Callable[[], Any]) -> None:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - read in only if asked for

        self._prefix = prefix
        self._families = families
        self._figures = figures
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def describe(self) -> list[Any]:
        """Nothing is made before somebody reads."""
        return []

    def collect(self) -> Iterator[Any]:
        """The figures as they are now, for prometheus_client."""
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )

        figures = self._figures()
        found = ((each.name, getattr(figures, each.name)) for each in fields(figures))
        about = {name: value for name, value in found if isinstance(value, str)}
        yield InfoMetricFamily(f"{self._prefix}_build", "What runs.", about)
        for family in self._families:
            value = getattr(figures, family.field)
            kind = CounterMetricFamily if family.counter else GaugeMetricFamily
            labels = [family.label] if family.label else []
            made = kind(f"{self._prefix}_{family.name}", family.help, labels=labels)
            if family.label:
                for word, number in value:
                    made.add_metric([word], number)
            elif value is not None:
                made.add_metric([], value)
            yield made

    def text(self) -> bytes:
        """OpenMetrics text. Raises CbfsError, OSError."""
        from prometheus_client.openmetrics.exposition import generate_latest  # noqa: PLC0415

        return bytes(generate_latest(self._registry))  # type: ignore[no-untyped-call]


@contextmanager
def listening_for_metrics(
    where: Place | Path | None, *, for_all: bool
) -> Iterator[socket.socket | None]:
    """The listening socket at a place, None without one. Raises HostError, also for an address that
    other machines reach, unless it is meant ``for_all``."""
    with ExitStack() as stack:
        if where is None:
            yield None
        elif isinstance(where, Path):
            yield stack.enter_context(listen_locally(where))
        else:
            if not for_all and not _is_local(where):
                raise HostError(
                    f"others could read the figures at {where}",
                    "give --metrics an address of this machine alone, like 127.0.0.1, or say"
                    " --metrics-for-all if they may",
                )
            if not _is_local(where):
                _log.warning("whoever reaches %s can read the figures of this server", where)
            yield stack.enter_context(listen(where))


def _is_local(place: Place) -> bool:
    try:
        return ip_address(place.host).is_loopback
    except ValueError:
        return place.host == "localhost"


def show(
    nursery: trio.Nursery,
    listener: socket.socket | None,
    prefix: str,
    families: Sequence[Family],
    figures: Callable[[], Any],
) -> None:
    """Log a line of counts each hour, and answer with figures at a listening socket, if there is
    one: in the nursery. ``figures`` raises CbfsError, OSError."""
    nursery.start_soon(keep_going, "counts of the hour", partial(tell_counts, figures))
    if listener is not None:
        answer = partial(answer_metrics, listener, Exporter(prefix, families, figures))
        nursery.start_soon(keep_going, "answering with figures", answer)


async def answer_metrics(listener: socket.socket, exporter: Exporter) -> None:
    """Answer HTTP at a non-blocking listening socket, until cancelled."""
    free = trio.Semaphore(CLIENTS_MAX)
    with listener.dup() as mine:
        mine.setblocking(False)
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(mine))
        async with trio.open_nursery() as nursery:
            while True:
                await free.acquire()
                stream = await accepting.accept()
                nursery.start_soon(_client, stream, exporter, free)


async def _client(stream: trio.SocketStream, exporter: Exporter, free: trio.Semaphore) -> None:
    """One request, and the end of its connection."""
    try:
        async with stream:
            with trio.move_on_after(REQUEST_TIMEOUT):
                await _answer(stream, exporter)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    except Exception as error:
        tell_fault("an answer with figures", error)
    finally:
        free.release()


async def _answer(stream: trio.SocketStream, exporter: Exporter) -> None:
    import h11  # noqa: PLC0415

    connection = h11.Connection(h11.SERVER, REQUEST_MAX)
    try:
        request = await _request(stream, connection)
        if request is None:
            return
        status, kind, body = _page(request, exporter)
        only_head = request.method == b"HEAD"
    except h11.RemoteProtocolError as error:
        status, kind, body = error.error_status_hint, PLAIN, b"this is no request of HTTP\n"
        only_head = False
    length = str(len(body))
    headers = [("Content-Type", kind), ("Content-Length", length), ("Connection", "close")]
    answer = connection.send(h11.Response(status_code=status, headers=headers)) or b""
    if not only_head:
        answer += connection.send(h11.Data(data=body)) or b""
    answer += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(answer)


async def _request(stream: trio.SocketStream, connection: "h11.Connection") -> "h11.Request | None":
    """What comes first; None when nothing does. Raises RemoteProtocolError."""
    import h11  # noqa: PLC0415

    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await stream.receive_some(READ_SIZE))


def _page(request: "h11.Request", exporter: Exporter) -> tuple[int, str, bytes]:
    """Status, type and body of the answer."""
    if request.method not in (b"GET", b"HEAD"):
        return 405, PLAIN, b"ask with GET\n"
    if request.target.partition(b"?")[0] != b"/metrics":
        return 404, PLAIN, b"the figures are at /metrics\n"
    try:
        return 200, OPENMETRICS, exporter.text()
    except (CbfsError, OSError) as error:
        _log.error("no figures: %s", in_words(error))
        return 500, PLAIN, b"the store cannot be read; see the log\n"
