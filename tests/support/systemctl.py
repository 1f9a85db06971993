"""What the page docs/operating.rst needs of systemctl: it starts what a unit says, waits until that
is ready, has it read its settings again, and ends it. ``PLACE`` in the environment: where the
machine's files are."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PLACE = Path(os.environ["PLACE"])
RUN = PLACE / "run"
TIMEOUT = 60.0


def pid_file(unit: str) -> Path:
    return RUN / f"{unit}.pid"


def start(unit: str) -> None:
    text = (PLACE / "etc" / "systemd" / "system" / f"{unit}.service").read_text()
    found = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert found
    set_ = RUN / "environment"
    options = set_.read_text().strip().partition("=")[2] if set_.exists() else ""
    line = found[1].replace("$CBFS_NAMES_OPTIONS", options)
    words = [f"{PLACE}{word}" if word.startswith("/") else word for word in line.split()]
    state = PLACE / "var" / "lib" / "private" / unit
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    link = PLACE / "var" / "lib" / unit
    if not link.is_symlink():
        link.symlink_to(Path("private") / unit)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"cbfs-{os.getpid()}"
        heard.bind(f"\0{name}")
        heard.settimeout(TIMEOUT)
        with (RUN / f"{unit}.log").open("ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": f"@{name}"},
            )
        pid_file(unit).write_text(str(process.pid))
        while b"READY=1" not in heard.recv(4_096):
            pass


def stop(unit: str) -> None:
    pid = int(pid_file(unit).read_text())
    os.kill(pid, signal.SIGTERM)
    limit = time.monotonic() + TIMEOUT
    while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.01)
    pid_file(unit).unlink()


def main(verb: str, *words: str) -> None:
    units = [word for word in words if not word.startswith("-")]
    if verb == "set-environment":
        (RUN / "environment").write_text(words[0])
    elif verb == "unset-environment":
        (RUN / "environment").unlink()
    elif verb == "status":
        for unit in units:
            os.kill(int(pid_file(unit).read_text()), 0)
            print((RUN / f"{unit}.log").read_text())
    elif verb == "reload":
        os.kill(int(pid_file(units[0]).read_text()), signal.SIGHUP)
    for unit in units:
        if verb in ("disable", "stop", "restart"):
            stop(unit)
        if verb in ("enable", "start", "restart"):
            start(unit)


if __name__ == "__main__":
    main(*sys.argv[1:])
