"""Figures for Prometheus: what is answered, to whom, and the dashboard that shows them."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from cbfs.network.link import request
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import dh_public
from cbfs_common.wire.requests import CreateAccount, Deliver
from cbfs_host.complaints import HostError
from cbfs_host.counts import PERIOD, tell_counts, words_of
from cbfs_host.listening import Place
from cbfs_host.metrics import (
    CLIENTS_MAX,
    OPENMETRICS,
    Exporter,
    Family,
    answer_metrics,
    listening_for_metrics,
)
from cbfs_names.admin.figures import DirectoryFigures
from cbfs_names.admin.metrics import FAMILIES as NAMES_FAMILIES
from cbfs_names.admin.metrics import PREFIX as NAMES_PREFIX
from cbfs_server.figures import ServerFigures
from cbfs_server.metrics import FAMILIES, PREFIX
from tests.server.test_server_processes import PROGRAMS, connects, failure, running, said_in_words
from tests.support.postgres import free_ports
from tests.support.serving import TIMEOUT, envelope, link_to, new_account, running_server

ROOT = Path(__file__).parents[2]
(DASHBOARD,) = (ROOT / "examples" / "grafana").glob("*.json")
ALL = {
    ServerFigures: (PREFIX, FAMILIES),
    DirectoryFigures: (NAMES_PREFIX, NAMES_FAMILIES),
}


def asked(port: int, request_: bytes = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    """All that is answered at a port."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
        client.sendall(request_)
        answer = b""
        while part := client.recv(65_536):
            answer += part
    return answer


def samples(answer: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    """Name and labels' values of all samples, and the sample."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"content-type: {OPENMETRICS}" in head.decode().lower()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
    }


def named(prefix: str, families: tuple[Family, ...]) -> set[str]:
    """The samples that the families make."""
    made = {f"{prefix}_{each.name}" + ("_total" if each.counter else "") for each in families}
    return made | {f"{prefix}_build_info"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_prometheus_can_read_every_figure(program: str, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with running(program, tmp_path / "data", "--metrics", f"127.0.0.1:{port}") as (_, url):
        connects(program, url)
        found = samples(asked(port))
    prefix, families = ALL[ServerFigures if program == "cbfs_server" else DirectoryFigures]
    with_words = {name for name, _ in found}
    for each in families:
        if not each.label and each.field != "oldest_days":  # there is none
            assert f"{prefix}_{each.name}" in with_words
    assert with_words <= named(prefix, families)
    assert found[f"{prefix}_connection_events_total", ("accepted",)] >= 1


def test_figures_are_those_of_the_server_and_nobodys(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    users: list[bytes] = []

    async def script() -> None:
        secret, user = await new_account(server)
        users.append(user)
        async with link_to(server, secret) as link:
            await request(link, CreateAccount())
            for _ in range(3):
                await request(link, Deliver(user, envelope()))
            with pytest.raises(CbfsError):
                await request(link, Deliver(dh_public(b"k" * 32), envelope()))

    with running_server(tmp_path / "data", "--metrics", f"127.0.0.1:{port}") as server:
        trio.run(script)
        answer = asked(port)
        found = samples(answer)
        assert found["cbfs_server_accounts", ()] == 1
        assert found["cbfs_server_envelopes", ()] == 3
        assert found["cbfs_server_requests_total", ("Deliver",)] == 4
        refused = [n for (name, _), n in found.items() if name == "cbfs_server_refusals_total"]
        assert refused == [1]
        told = answer + server.log.encode()
        for user in users:
            for form in (user.hex(), user.hex().upper()):
                assert form.encode() not in told
        for word in (words for (_, words) in found if words):
            assert re.fullmatch(r"[A-Za-z_ .0-9-]{1,40}", word[0]), word


@pytest.mark.parametrize("kind", ALL)
def test_every_figure_is_exported(kind: type) -> None:
    """But for those of a minute, which Prometheus makes, and texts, which stand in one."""
    _, families = ALL[kind]
    exported = [each.field for each in families]
    assert len(set(exported)) == len(exported)
    for each in fields(kind):
        if each.name.endswith("_per_minute"):
            assert each.name not in exported
        elif each.type is not str:
            assert each.name in exported


def expressions(node: object) -> Iterator[str]:
    """All that a dashboard asks Prometheus for."""
    if isinstance(node, dict):
        yield from ([node["expr"]] if "expr" in node else [])
        for each in node.values():
            yield from expressions(each)
    elif isinstance(node, list):
        for each in node:
            yield from expressions(each)


def test_the_dashboard_shows_what_there_is() -> None:
    """And all that there is."""
    dashboard = json.loads(DASHBOARD.read_text())
    known = {name for prefix, families in ALL.values() for name in named(prefix, families)}
    shown = set[str]()
    for expression in expressions(dashboard):
        shown |= set(re.findall(r"cbfs_\w+", expression))
        assert ("rate(" in expression) == ("_total" in expression)
    assert shown == known
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("program", PROGRAMS)
def test_others_read_no_figures_unless_they_may(program: str, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    for wide in f"0.0.0.0:{port}", f"[::]:{port}", f"192.0.2.1:{port}", f"example.org:{port}":
        status, said = failure(program, tmp_path / "data", "--metrics", wide)
        assert (status, said_in_words(said)) == (1, True)
        assert "others could read the figures" in said[0]
    options = ("--metrics", f"0.0.0.0:{port}", "--metrics-for-all")
    with running(program, tmp_path / "data", *options) as (process, _):
        assert process.stderr is not None
        assert "can read the figures of this server" in process.stderr.readline()
        assert samples(asked(port))


def test_figures_at_a_unix_socket_are_the_users_own(tmp_path: Path) -> None:
    place = tmp_path / "metrics"
    with running("cbfs_server", tmp_path / "data", "--metrics", f"unix:{place}"):
        assert place.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            client.connect(str(place))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = b""
            while part := client.recv(65_536):
                answer += part
    assert samples(answer)


def test_a_socket_for_figures_takes_the_place_of_one_that_is_left_and_of_nothing_else(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("kept")
    with pytest.raises(HostError, match="exists"), listening_for_metrics(mine, for_all=False):
        pass
    assert mine.read_text() == "kept"
    place = tmp_path / "socket"
    with listening_for_metrics(place, for_all=False) as first:
        with pytest.raises(HostError, match="in use"), listening_for_metrics(place, for_all=False):
            pass
        assert first is not None
        first.setblocking(True)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))
            first.accept()[0].close()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place))
    with listening_for_metrics(place, for_all=False):
        assert place.is_socket()
    assert not place.exists()


def test_nothing_is_told_where_nobody_asked(tmp_path: Path) -> None:
    """Nor are the libraries read in."""
    with running("cbfs_server", tmp_path / "data") as (process, url):
        connects("cbfs_server", url)
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        assert "prometheus" not in loaded
    with pytest.raises(HostError), listening_for_metrics(Place("0.0.0.0", 0), for_all=False):
        raise AssertionError


@dataclass(frozen=True)
class Counted:
    """Figures of one kind."""

    requests: tuple[tuple[str, int], ...]


def _fails() -> object:
    raise HostError("the store is gone")


def play(figures: object, script: object) -> None:
    """``script`` gets the port of an exporter, in a thread."""

    async def main() -> None:
        with listening_for_metrics(Place("127.0.0.1", 0), for_all=False) as listener:
            assert listener is not None
            exporter = Exporter(PREFIX, FAMILIES, figures)  # type: ignore[arg-type]
            with trio.fail_after(TIMEOUT):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(answer_metrics, listener, exporter)
                    port = listener.getsockname()[1]
                    await trio.to_thread.run_sync(script, port)  # type: ignore[arg-type]
                    nursery.cancel_scope.cancel()

    trio.run(main)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_whatever_is_asked_ends_nothing() -> None:
    def script(port: int) -> None:
        for wrong, status in (
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
            (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
            (b"HEAD /other HTTP/1.1\r\nHost: x\r\n\r\n", 404),
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 500),
            (b"GET /metrics\r\n\r\n", 400),
            (b"\xff" * 100 + b"\r\n\r\n", 400),
        ):
            assert status_of(asked(port, wrong)) == status
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS_MAX - 1)]
        assert status_of(asked(port)) == 500
        for each in silent:
            each.close()

    play(_fails, script)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20))
def test_any_bytes_are_answered_or_the_end(many: list[bytes]) -> None:
    def script(port: int) -> None:
        for data in many:
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                answer = b""
                try:
                    while part := client.recv(65_536):
                        answer += part
                except ConnectionResetError:
                    continue
            assert answer == b"" or 400 <= status_of(answer) <= 505
        assert status_of(asked(port)) == 500

    play(_fails, script)


def test_counts_of_the_hour_are_told_as_what_is_new() -> None:
    def made(requests: int, refusals: int) -> ServerFigures:
        counts = (("Deliver", requests),)
        return ServerFigures(
            version="1",
            uptime=3_600,
            accounts=2,
            blobs=3,
            blob_bytes=49_200,
            envelopes=3,
            oldest_days=None,
            used=4,
            free=5,
            connections=6,
            handshakes=7,
            subscriptions=8,
            requests=counts,
            requests_per_minute=counts,
            refusals=(("FULL", refusals),),
            refusals_per_minute=(),
            connections_total=(("accepted", 9),),
        )

    line, before = words_of(made(10, 1), {})
    assert line == (
        "accounts 2, envelopes 3, blobs 3, blob_bytes 49200, used 4, free 5, connections 6,"
        " handshakes 7, subscriptions 8, requests Deliver 10, refusals FULL 1,"
        " connections accepted 9"
    )
    line, before = words_of(made(15, 1), before)
    assert line.endswith("subscriptions 8, requests Deliver 5")
    assert words_of(made(15, 2), before)[0].endswith("subscriptions 8, refusals FULL 1")


def test_a_line_of_counts_comes_each_hour(caplog: pytest.LogCaptureFixture) -> None:
    """Also where only warnings are logged, and after an hour without figures."""
    numbers = iter([3, 0, 5])

    def figures() -> Counted:
        number = next(numbers)
        if not number:
            raise HostError("the store is gone")
        return Counted((("Fetch", number),))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_counts, figures)
            for _ in range(3):
                await trio.sleep(PERIOD)
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    caplog.handler.setLevel(0)
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the last hour: requests Fetch 3",
        "no counts: the store is gone",
        "the last hour: requests Fetch 2",
    ]
