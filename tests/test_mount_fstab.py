"""mount(8), umount(8) and fstab, for root and for a user without any privilege: a real mount in a
mount namespace of its own. See ``fstab.sh``."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.world import program, run, world

USER = "nobody"
LIMIT = 150

pytestmark = pytest.mark.mount


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
