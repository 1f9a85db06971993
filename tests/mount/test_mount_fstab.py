"""mount(8), umount(8) and fstab, for root and for a user without any privilege: a real mount in a
mount namespace of its own. See ``fstab.sh``."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import cbfs
import cbfs_common
import cbfs_host
from tests.support.world import ENVIRONMENT, program, run, world

USER = "nobody"
LIMIT = 150
MOUNT = "import sys; from cbfs.commands.process.entry import mount_cbfs; sys.exit(mount_cbfs())"

pytestmark = pytest.mark.mount


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_a_program_that_the_user_may_not_read_says_so(tmp_path: Path) -> None:
    """It was installed by root, for root."""
    locked = tmp_path / "locked"
    for package in (cbfs, cbfs_common, cbfs_host):
        folder = Path(str(package.__file__)).parent
        shutil.copytree(folder, locked / folder.name)
    locked.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", MOUNT, tmp_path / "account", tmp_path, "-o", f"uid={USER}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        env={**ENVIRONMENT, "PYTHONPATH": str(locked)},
    )
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"cbfs: error: {USER} may not read /")
    assert hint.startswith("cbfs: hint: install cbfs")


def test_fstab_for_root_and_for_a_user() -> None:
    with tempfile.TemporaryDirectory(prefix="cbfs-fstab-", dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        servers, home = place / "servers", place / "jörg's home"
        servers.mkdir()
        (home / "chat").mkdir(parents=True)
        with world(servers) as programs:
            policy = servers / "names" / "policy"
            where = ("--account", home / "account", "--server", programs.server.url)
            made = run("cbfs", "init", "alice", *where, "--names", policy, "--no-tor")
            assert made.returncode == 0, made.stderr
            for folder, _folders, files in os.walk(home):
                for each in (folder, *(str(Path(folder, file)) for file in files)):
                    shutil.chown(each, USER)
            script = Path(__file__).with_name("fstab.sh")
            arguments = [str(script), str(place), program("mount.cbfs")[0], USER]
            done = subprocess.run(
                ["timeout", str(LIMIT), "unshare", "-m", "sh", *arguments],
                capture_output=True,
                text=True,
                check=False,
            )
    assert done.stdout.splitlines() == [
        "user mounted fuse.cbfs",
        "kept",
        USER,
        "modes: told 1 z ",
        "user unmounted",
        "mounted once: 1",
        "kept",
        "kept",
        "mounted over the dead one: 1",
        "busy: told",
        "without mtab: 1",
        "and ended",
        "done",
    ], done.stderr
