"""``./run demo --cluster``: alice and bob, each at a message server of two that share a database of
three machines, and the primary of these is killed in the middle."""

import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shutil import copy

from cbfs.commands.machine.demo import (
    DemoSteps,
    Way,
    mounted_pair,
    service,
    start_names,
    talk,
    wait_for,
)
from tests.support.postgres_cluster import running_cluster

TIMEOUT = 120.0


def main() -> int:
    """Show it."""
    with tempfile.TemporaryDirectory(prefix="cbfs-demo-") as directory, ExitStack() as stack:
        place, steps, way = Path(directory), DemoSteps(), Way()
        print(f"cbfs demo: alice and bob in {place}\n")
        cluster = steps.do(
            "three PostgreSQL under Patroni start, and three etcd",
            lambda: stack.enter_context(running_cluster()),
        )
        start_names(steps, place, stack, way)
        urls = []
        for name in "one", "other":
            data = place / name
            data.mkdir(mode=0o700)
            if name == "other":
                copy(place / "one" / "key", data / "key")
            words = ("--data", str(data), "--store", cluster.address, *way.servers)
            running = service("cbfs-server", *words)
            urls.append(
                steps.do(f"message server {name} starts", partial(stack.enter_context, running))
            )
            print(f"    {urls[-1]}")
        alice, bob = mounted_pair(steps, place, stack, way, (urls[0], urls[1]))
        talk(steps, alice, bob)
        primary = cluster.primary()
        print(f"  $ kill -9    # all that runs on {primary.name}, the primary\n")
        primary.kill()
        text = "I wrote this after the primary had gone.\n"
        folder = next((bob / "conversations").iterdir()).name
        (alice / "outbox" / "bob" / "after").write_text(text)
        (bob / "outbox" / folder / "after").write_text(text)
        for mount, title in (bob, "alice's message"), (alice, "bob's message"):
            look = partial(_message, mount, text)
            step = partial(wait_for, look, TIMEOUT, title)
            steps.do(f"{title} appears, by another primary", step)
        print(f"\nthe primary is {cluster.primary().name} now; all of it took {steps.total:.1f} s")
    print("unmounted, stopped, removed")
    return 0


def _message(mount: Path, text: str) -> Path | None:
    files = (mount / "conversations").glob("*/*-*")
    return next((path for path in files if path.is_file() and path.read_text() == text), None)


if __name__ == "__main__":
    sys.exit(main())
