"""The page docs/operating.rst: its commands, typed as they stand there, on a machine that is a
folder; and the Containerfile."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # of patroni
from psycopg.conninfo import conninfo_to_dict

from cbfs_names.commands import settings as names_settings
from cbfs_server import settings as server_settings
from cbfs_server.limits import LANES, READERS
from tests.project.test_readme import host
from tests.support.postgres_cluster import INITDB, SETTINGS

LIMIT = 900.0
"""Seconds for all that the page says: some twenty programs that start."""

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operating.rst"
CONTAINERFILE = ROOT / "Containerfile"
ELSEWHERE = (
    "apt-get",  # of Debian
    "python3 -m venv",
    "/opt/cbfs/bin/pip",
    "echo 'onion = true'",  # takes a tor
    "cbfs init",
    "podman",
    "df ",
)
"""How commands begin that a test cannot run: they change the machine, or need a network."""
HELPERS = 4
"""Connections to a database by which a server searches, tells others, hears of them, and looks."""

FILES = ("/usr/local/bin", "/var/lib", "/etc/cbfs", "/etc/systemd", "/root")


def typed() -> list[str]:
    """The commands of the page, each whole."""
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", PAGE.read_text())
    found, begun = [], ""
    for line in "".join(blocks).splitlines():
        begun += line.removeprefix("    ") + "\n"
        whole = subprocess.run(["bash", "-n", "-c", begun], capture_output=True, check=False)
        if whole.returncode == 0 and not line.endswith("\\"):
            found += [begun.strip()] if begun.strip() else []
            begun = ""
    assert not begun
    return found


@pytest.mark.timeout(LIMIT + 60)
def test_the_page_is_typed_from_a_bare_machine_to_its_move(tmp_path: Path) -> None:
    """systemd does not run here: what stands in for it starts what the units say."""
    place = tmp_path / "machine"
    for made in "run", "usr/local/bin", "etc/systemd/system", "var/lib/private", "root", "bin":
        (place / made).mkdir(mode=0o700, parents=True)
    scripts = Path(sys.executable).parent
    systemctl = place / "bin" / "systemctl"
    code = f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/support/systemctl.py" "$@"\n'
    systemctl.write_text(code)
    systemctl.chmod(0o755)
    commands, skipped = [], 0
    for command in typed():
        if command.startswith(ELSEWHERE):
            skipped += 1
        else:
            there = "|".join(map(re.escape, FILES))
            moved = re.sub(rf"(?<![\w.])({there})\b", rf"{place}\1", command)
            commands.append(moved.replace("/opt/cbfs/bin", str(scripts)))
            if "server/cbfs-names.toml" in command:  # no port of another test
                commands.append(f"sed -i 's/127.0.0.1/{host()}/' {place}/etc/cbfs/*.toml")
            if command.startswith("tar -C") and " -cf " in command:  # a new machine
                commands.append(f"rm -r {place}/var/lib/*")
    assert len(commands) > 25
    assert skipped < 14
    script = "set -eux\n" + "\n".join(commands) + "\n"
    output = tmp_path / "output"
    path = f"{place}/bin:{scripts}:{os.environ['PATH']}"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            ["bash", "-c", script],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "PLACE": str(place)},
            stdin=subprocess.DEVNULL,
            stdout=file,  # no pipe: what it has started lives on
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as shell,
    ):
        try:
            shell.wait(LIMIT)
        finally:
            logs = {each.stem: each.read_text() for each in (place / "run").glob("*.log")}
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    said = output.read_text()
    assert shell.returncode == 0, said + "".join(logs.values())
    assert "accounts" in said
    assert (place / "root" / "backup" / "mail.mdb").exists()
    assert "settings have changed: mailbox" in logs["cbfs-server"]
    addresses = re.findall(r"^cbfs://\S+$", logs["cbfs-server"], re.MULTILINE)
    assert len(addresses) >= 2
    assert len(set(addresses)) == 1  # as its friends know it, after all that
    assert "the store is a copy" in logs["cbfs-server"]


@pytest.mark.parametrize("program", ["server", "names"])
def test_the_settings_that_are_given_along_are_right(program: str, tmp_path: Path) -> None:
    """Also those that stand in comments."""
    parse = server_settings.parse if program == "server" else names_settings.parse
    text = (ROOT / "server" / f"cbfs-{program}.toml").read_text()
    known = re.sub(r"^# (\w[\w-]* = )", r"\1", text, flags=re.MULTILINE)
    assert known.count("\n") == text.count("\n")
    for each in text, known:
        file = tmp_path / "settings.toml"
        file.write_text(each)
        values = parse(["--data", "x", "--settings", str(file)])[1]
        assert values["onion"] == (each is known)
    default = parse(["--data", "x"])[1]
    file.write_text(text)
    given = parse(["--data", "x", "--settings", str(file)])[1]
    assert {n for n, v in given.items() if v != default[n]} <= {"listen"} | {
        "disk_free",
        "blob_quota",
    }
    if program == "server":
        limits = server_settings.limits_of
        assert limits(given) == limits(default)


def test_the_cluster_of_the_page_is_the_one_that_is_tested() -> None:
    (text,) = re.findall(r"^\.\. code-block:: yaml\n\n((?:    .*\n|\n)+)", PAGE.read_text(), re.M)
    assert yaml.safe_load(text) == {"bootstrap": {"dcs": SETTINGS, "initdb": INITDB}}
    assert f"each message server makes {LANES + READERS + HELPERS}\n" in text


def test_the_settings_of_a_server_in_a_cluster_are_read(tmp_path: Path) -> None:
    blocks = re.findall(r"^\.\. code-block:: toml\n\n((?:    .*\n|\n)+)", PAGE.read_text(), re.M)
    (text,) = (each for each in blocks if "postgresql://" in each)
    file = tmp_path / "settings.toml"
    file.write_text(textwrap.dedent(text))
    values = server_settings.parse(["--data", "x", "--settings", str(file)])[1]
    assert str(conninfo_to_dict(values["store"])["host"]).count(",") == 2
    assert values["store_max"]


def test_a_container_runs_as_nobody_and_keeps_what_it_has_in_its_volume() -> None:
    """Built and run by hand; this holds what was tried then."""
    text = CONTAINERFILE.read_text().replace("\\\n", "")
    steps = [line.split(" ", 1) for line in text.splitlines() if line and line[0] != "#"]
    said = dict(steps)
    assert said["USER"] == "1984"
    assert f"--uid {said['USER']} " in text
    assert said["VOLUME"] == "/var/lib/cbfs"
    assert f"install -d -m 700 -o cbfs -g cbfs {said['VOLUME']}" in text
    assert said["ENTRYPOINT"] == '["cbfs-server"]'
    assert said["CMD"] == '["--data", "/var/lib/cbfs/server"]'
    assert said["STOPSIGNAL"] == "SIGTERM"
    packages = re.findall(r"(python3-venv|python3-dev|gcc|libc6-dev|pkg-config|libfuse3-dev)", text)
    install = next(line for line in PAGE.read_text().splitlines() if "apt-get install" in line)
    assert set(packages) <= set(install.split())
    words = [word for word, _ in steps]
    assert words.index("VOLUME") > words.index("RUN")  # what a step writes into a volume is lost
    assert words[-4:] == ["EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"]
