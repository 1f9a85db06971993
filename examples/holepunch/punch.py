#!/usr/bin/env python3
"""punch.py PERSON REFLECTOR:PORT   a direct UDP path to PERSON, who runs the same: then lines of
standard input go that way, and what comes is printed.
punch.py reflect PORT               the reflector: tells whoever asks from which address"""

import json
import os
import secrets
import select
import socket
import sys
import time
from pathlib import Path

MOUNT = Path(os.environ.get("CBFS_MOUNT", "~/chat")).expanduser()
GIVE_UP, AGAIN = 120.0, 0.2


def reflect(port: int) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", port))
    while True:
        _, (host, seen) = sock.recvfrom(64)
        sock.sendto(json.dumps([host, seen]).encode(), (host, seen))


def public_address(sock: socket.socket, reflector: tuple[str, int]) -> list[object]:
    for _ in range(50):
        sock.sendto(b"?", reflector)
        if select.select([sock], [], [], AGAIN)[0]:
            data, sender = sock.recvfrom(256)
            if sender == reflector:
                return list(json.loads(data))
    sys.exit("the reflector does not answer")


def signal(person: str, address: list[object], token: str) -> None:
    """Our address and a secret, as a message."""
    there = sorted((MOUNT / "outbox").glob(f"????-??-??-*-{person} punch"))
    folder = there[-1] if there else MOUNT / "outbox" / f"{person} punch"
    folder.mkdir(exist_ok=True)
    draft = MOUNT / "tmp" / f"{token}.punch"
    draft.write_text(json.dumps([*address, token]))
    draft.rename(folder / draft.name)


def signalled(person: str) -> tuple[tuple[str, int], bytes]:
    """The other's, when it has come."""
    end = time.monotonic() + GIVE_UP
    while time.monotonic() < end:
        for link in filter(Path.is_file, sorted((MOUNT / "unread").glob("*.punch"))):
            if os.getxattr(link, "user.cbfs.sender").decode() == person:
                host, port, token = json.loads(link.read_text())
                return (str(host), int(port)), str(token).encode()
        time.sleep(AGAIN)
    sys.exit(f"{person} does not answer")


def punch(sock: socket.socket, peer: tuple[str, int], mine: bytes, theirs: bytes) -> None:
    """Send until the other's secret and the word that ours has arrived have come. What we send
    opens our NAT for what comes; only the other knows what ours must be answered with."""
    end, heard, known = time.monotonic() + GIVE_UP, False, False
    while not (heard and known) and time.monotonic() < end:
        sock.sendto(theirs + (b" and heard" if heard else b""), peer)
        if select.select([sock], [], [], AGAIN)[0]:
            data, sender = sock.recvfrom(256)
            if sender == peer and data.startswith(mine):
                heard, known = True, known or data.endswith(b" and heard")
    if not known:
        sys.exit("no path: one of the NATs gives each destination another port")
    for _ in range(5):  # the other may still wait for this word
        sock.sendto(theirs + b" and heard", peer)


def talk(sock: socket.socket, peer: tuple[str, int], mine: bytes) -> None:
    sources = [sock, sys.stdin]
    while True:
        for source in select.select(sources, [], [])[0]:
            if source is sock:
                data, sender = sock.recvfrom(2_048)
                if sender == peer and not data.startswith(mine):
                    print(data.decode(errors="replace"), end="", flush=True)
            elif line := sys.stdin.readline():
                sock.sendto(line.encode(), peer)
            else:
                sources.remove(source)


match sys.argv[1:]:
    case ["reflect", port]:
        reflect(int(port))
    case [person, reflector]:
        host, _, port = reflector.rpartition(":")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", 0))
        mine = secrets.token_hex(16)
        signal(person, public_address(sock, (host, int(port))), mine)
        peer, theirs = signalled(person)
        punch(sock, peer, mine.encode(), theirs)
        print(f"a direct path to {person} is open", file=sys.stderr, flush=True)
        talk(sock, peer, mine.encode())
    case _:
        sys.exit(__doc__)
