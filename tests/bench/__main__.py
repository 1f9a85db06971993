"""``./run bench [--quick] [ROW...]``: the benchmarks, as one table."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from itertools import chain

from tests.bench import (
    blobs,
    cluster,
    core,
    files,
    flat,
    life,
    mail,
    mounts,
    names,
    pace,
    profile,
    records,
    server,
    start,
    tor,
    users,
    views,
    writes,
)
from tests.bench.table import Row, Table

GROUPS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "ratchet": core.ratchet,
    "first": core.first,
    "find": core.find,
    "store": records.records,
    "server": server.deliveries,
    "idle": server.idle,
    "crowd": server.crowd,
    "cluster": cluster.over_cluster,
    "latency": lambda quick: chain(mounts.latency(quick), users.latency(quick)),
    "writes": writes.writes,
    "folder": mounts.folder,
    "start": start.start,
    "lists": files.lists,
    "reads": files.reads,
    "bulk": lambda quick: chain(files.bulk(quick), users.bulk(quick)),
    "blobs": blobs.blobs,
    "news": files.news,
    "views": views.views,
    "mail": mail.mail,
    "flat": flat.flat,
    "life": life.life,
    "names": names.names,
    "registrations": names.registrations,
    "pace": pace.pace,
    "tor": tor.over_tor,
}


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(
        prog="./run bench",
        description="Measures cbfs beside its peers. The ratio says how many times better than "
        "the peer a row is; the aim is the ratio that the design asks for. With profile alone: "
        "flame graphs of mounts and a server at work, in bench-results/profile.",
    )
    parser.add_argument("--quick", action="store_true", help="see that all rows work; no figures")
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"{', '.join(GROUPS)}; or profile: flame graphs"
    )
    options = parser.parse_args()
    if options.rows == ["profile"]:
        return profile.profile(options.quick)
    for name in options.rows:
        if name not in GROUPS:
            parser.error(f"there is no row {name}: they are {', '.join(GROUPS)}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}\n")
    table = Table()
    table.head()
    for name in options.rows or GROUPS:
        table.rows(GROUPS[name](options.quick))
    return 0


if __name__ == "__main__":
    sys.exit(main())
