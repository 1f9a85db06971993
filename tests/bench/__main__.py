"""``./run bench [--quick] [ROW...]``: the benchmarks, as one table."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator

from tests.bench import core, files, flat, mounts, names, server, tor, views
from tests.bench.table import Row, Table

GROUPS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "ratchet": core.ratchet,
    "first": core.first,
    "find": core.find,
    "server": server.deliveries,
    "idle": server.idle,
    "crowd": server.crowd,
    "latency": mounts.latency,
    "folder": mounts.folder,
    "lists": files.lists,
    "reads": files.reads,
    "bulk": files.bulk,
    "news": files.news,
    "views": views.views,
    "flat": flat.flat,
    "names": names.names,
    "registrations": names.registrations,
    "tor": tor.over_tor,
}


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(
        prog="./run bench",
        description="Measures cbfs beside its peers. The ratio says how many times better than "
        "the peer a row is; the aim is the ratio that the design asks for.",
    )
    parser.add_argument("--quick", action="store_true", help="see that all rows work; no figures")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(GROUPS))
    options = parser.parse_args()
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
