"""The settings: what config.toml may say, and how programs save it in a real mount."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cbfs.account.bounds import (
    FILE_SIZE_MIN,
    GRACE_MAX,
    PACE_MAX,
    PACE_MIN,
    QUOTA_MAX,
    QUOTA_MIN,
    STAGGER_MAX,
    STAGGER_MIN,
)
from cbfs.account.settings import (
    CONFIG_MAX,
    KEYS,
    Reactions,
    Settings,
    SettingsError,
    Strangers,
    commented,
    decode,
    encode,
)
from cbfs_common.limits import BLOB_SIZE_MAX
from tests.support.mounted import Mounted, mounted
from tests.support.world import wait_for

SETTINGS = st.builds(
    Settings,
    grace=st.floats(0, GRACE_MAX),
    file_size_max=st.integers(FILE_SIZE_MIN, BLOB_SIZE_MAX),
    quota=st.just(0) | st.integers(QUOTA_MIN, QUOTA_MAX),
    receipts=st.booleans(),
    pace=st.just(0.0) | st.integers(PACE_MIN, PACE_MAX).map(float),
    strangers=st.sampled_from(Strangers),
    reactions=st.sampled_from(Reactions),
    stagger=st.just(0.0) | st.integers(STAGGER_MIN, STAGGER_MAX).map(float),
    blobs=st.booleans(),
)


def test_every_setting_is_a_key() -> None:
    assert list(KEYS) == list(Settings.__dataclass_fields__)


@given(SETTINGS)
@example(Settings(quota=QUOTA_MAX - 1))  # which no unit but bytes divides
def test_settings_survive_being_written(settings: Settings) -> None:
    assert decode(encode(settings)) == settings
    assert decode(commented(settings)) == settings


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_give_settings_or_words(data: bytes) -> None:
    try:
        decode(data)
    except SettingsError as error:
        assert str(error)
        assert error.hint


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("grace = 1\ngrace = 2", "not TOML", "key"),
        ("grace", "not TOML", "key"),
        ("grase = 1", "no setting 'grase'", "did you mean grace"),
        ("[colours]\nred = 1", "no setting 'colours'", "grace, file_size_max, quota, receipts"),
        ('grace = "1"', "grace is not a number of seconds from 0 to 3600", "grace = 1"),
        ("grace = true", "grace is not", "grace = 1"),
        ("grace = nan", "grace is not", "grace = 1"),
        ("grace = -1", "grace is not", "grace = 1"),
        ("grace = 3601", "grace is not", "grace = 1"),
        ("blobs = 1", "blobs is not true or false", "blobs = true"),
        ('file_size_max = "5 GiB"', "file_size_max is not a size", '"4 GiB"'),
        ("file_size_max = 65535", "file_size_max is not a size", '"4 GiB"'),
        ('file_size_max = "ten"', "file_size_max is not a size", '"4 GiB"'),
        ('quota = "15 MiB"', "quota is not a size", 'quota = ""'),
        ('quota = "2 TiB"', "quota is not a size", 'quota = ""'),
        ("quota = 0", "quota is not a size", 'quota = ""'),
        ("quota = true", "quota is not a size", 'quota = ""'),
        ('pace = "1s"', "pace is not a time", 'pace = ""'),
        ('pace = "25h"', "pace is not a time", 'pace = ""'),
        ("pace = 5", "pace is not a time", 'pace = ""'),
        ('strangers = "perhaps"', "strangers is not", 'strangers = "ask"'),
        ("strangers = true", "strangers is not", 'strangers = "ask"'),
        ('reactions = "Prompt"', "reactions is not", 'reactions = "steady"'),
        ("reactions = false", "reactions is not", 'reactions = "steady"'),
        ('stagger = "0s"', "stagger is not a time", 'stagger = ""'),
        ('stagger = "61m"', "stagger is not a time", 'stagger = ""'),
        ("stagger = 60", "stagger is not a time", 'stagger = ""'),
        ("#" * (CONFIG_MAX + 1), "too long", "65536"),
    ],
)
def test_what_is_wrong_has_words(text: str, words: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        decode(text.encode())
    assert words in str(caught.value)
    assert hint in caught.value.hint


def test_sizes_have_units() -> None:
    sizes = {'"10 MiB"': 10 << 20, '"64KiB"': 65_536, "70000": 70_000, '"80000 B"': 80_000}
    for text, size in sizes.items():
        assert decode(f"file_size_max = {text}".encode()).file_size_max == size
    for text, size in {'"2 GiB"': 2 << 30, '"16 MiB"': 16 << 20, '""': 0}.items():
        assert decode(f"quota = {text}".encode()).quota == size


@pytest.fixture
def mount() -> Iterator[Mounted]:
    with mounted("grace=0.05") as made:
        yield made


def limit(mount: Mounted) -> int:
    """The size that a file may have: what is in effect, seen from outside."""
    path = mount.path / "tmp" / "size"
    path.touch()
    low, high = 0, BLOB_SIZE_MAX + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            os.truncate(path, middle)
            low = middle
        except OSError as error:
            assert error.errno == errno.EFBIG
            high = middle
    path.unlink()
    return low


def wait_limit(mount: Mounted, size: int, way: str = "") -> None:
    wait_for(lambda: limit(mount) == size or None, f"file_size_max = {size} {way}")


def refuses(mount: Mounted, script: str, words: str) -> bool:
    done = subprocess.run(
        ["sh", "-uc", script], cwd=mount.path, capture_output=True, text=True, check=False
    )
    return done.returncode != 0 and words in done.stderr


@pytest.mark.mount
def test_the_file_explains_the_settings(mount: Mounted) -> None:
    text = (mount.path / "config.toml").read_text()
    assert all(f"# {name} = " in text for name in KEYS)
    assert (mount.path / "config.toml").stat().st_mode & 0o777 == 0o600


WAYS = {
    "redirected": "printf '%s' '{text}' > config.toml",
    "copied over": "printf '%s' '{text}' > tmp/c; cp tmp/c config.toml",
    "moved over": "printf '%s' '{text}' > tmp/c; mv tmp/c config.toml",
    "dd in place": "printf '%s' '{text}' | dd of=config.toml status=none",
    "vim, backup by rename": (
        "touch 4913; rm 4913; touch .config.toml.swp; mv config.toml config.toml~;"
        "printf '%s' '{text}' > config.toml; chmod 600 config.toml;"
        "rm config.toml~ .config.toml.swp"
    ),
    "emacs": (
        "ln -s me@here.1 .#config.toml; mv config.toml config.toml~;"
        "printf '%s' '{text}' > config.toml; rm .#config.toml config.toml~"
    ),
    "gio, with a backup by link": (
        "printf '%s' '{text}' > .goutputstream-ABCDEF; ln config.toml config.toml~;"
        "mv .goutputstream-ABCDEF config.toml; rm config.toml~"
    ),
    "glib": "printf '%s' '{text}' > config.toml.A1B2C3; mv config.toml.A1B2C3 config.toml",
    "joe": "cp config.toml config.toml~; printf '%s' '{text}' > config.toml; rm config.toml~",
    "rsync": (
        "printf '%s' '{text}' > .config.toml.A1B2C3; touch -d yesterday .config.toml.A1B2C3;"
        "mv .config.toml.A1B2C3 config.toml"
    ),
    "kate": (
        "touch .config.toml.kate-swp; printf '%s' '{text}' > config.toml;rm .config.toml.kate-swp"
    ),
    "emptied first": ": > config.toml; printf '%s' '{text}' > config.toml",
    "removed first": "rm config.toml; printf '%s' '{text}' > config.toml",
}


@pytest.mark.mount
def test_however_it_is_saved_it_is_in_effect(mount: Mounted) -> None:
    for number, (way, script) in enumerate(WAYS.items(), 100_000):
        subprocess.run(
            ["sh", "-c", script.replace("{text}", f"file_size_max = {number}")],
            cwd=mount.path,
            check=True,
        )
        wait_limit(mount, number, way)
        assert not (mount.path / "config.toml.error").exists(), way
    left = {path.name for path in mount.path.iterdir()}
    assert left == {
        *("README", "status", "profile.toml", "config.toml"),
        *("conversations", "outbox", "contacts", "ui_info", "tmp"),
        *("unread", "by-date", "search", "requests", "directories", "mail"),
    }


EDITORS = {
    "vim": ["vim", "-es", "-u", "NONE", "-c", "set backup swapfile", "-c", "%d|put ='{text}'|x"],
    "vim in place": ["vim", "-es", "-u", "NONE", "-c", "set bkc=yes", "-c", "%d|put ='{text}'|x"],
    "sed": ["sed", "-i", "1c {text}\n;2,$d"],
    "perl": ["perl", "-i", "-ne", 'print "{text}\n" if $. == 1'],
}


@pytest.mark.mount
def test_editors_save_it(mount: Mounted) -> None:
    config, backup = mount.path / "config.toml", "config.toml~"
    for number, (name, command) in enumerate(EDITORS.items(), 200_000):
        words = [word.replace("{text}", f"file_size_max = {number}") for word in command]
        subprocess.run([*words, config], check=True, stdin=subprocess.DEVNULL)
        wait_limit(mount, number, name)
        assert {path.name for path in mount.path.glob("*config.toml*")} <= {config.name, backup}


@pytest.mark.mount
def test_a_wrong_one_is_told_and_changes_nothing(mount: Mounted) -> None:
    error, config = mount.path / "config.toml.error", mount.path / "config.toml"
    mount.run("echo file_size_max = 100000 > config.toml")
    wait_limit(mount, 100000)
    (mount.path / "tmp" / "wrong").write_text("file_size_mx = 200000\n")
    assert refuses(mount, "cp tmp/wrong config.toml", "Invalid argument")
    assert "did you mean file_size_max" in error.read_text()
    assert config.read_text() == "file_size_mx = 200000\n"
    assert "file_size_mx" in (mount.path / "status").read_text()
    assert limit(mount) == 100000
    mount.run("echo file_size_max = 100001 > config.toml")
    wait_limit(mount, 100001)
    wait_for(lambda: not error.exists() or None, "the error file to go")
    assert "file_size_mx" not in (mount.path / "status").read_text()
    assert refuses(mount, "mv tmp/wrong config.toml", "not permitted")
    assert "did you mean file_size_max" in error.read_text()
    assert config.read_text() == "file_size_max = 100001\n"
    error.unlink()
    assert limit(mount) == 100001


@pytest.mark.mount
def test_settings_outlive_the_mount_even_when_killed(mount: Mounted) -> None:
    mount.run("echo '# mine\nfile_size_max = 100000' > config.toml")
    wait_limit(mount, 100000)
    mount.signal(signal.SIGKILL)
    mount.mount()
    assert limit(mount) == 100000
    assert (mount.path / "config.toml").read_text() == "# mine\nfile_size_max = 100000\n"
    (mount.path / "config.toml").unlink()
    mount.unmount()
    mount.mount()
    assert limit(mount) == 100000
    assert "\nfile_size_max = " in (mount.path / "config.toml").read_text()


@pytest.mark.mount
def test_one_that_was_removed_comes_back(mount: Mounted) -> None:
    config = mount.path / "config.toml"
    mount.run("echo file_size_max = 100000 > config.toml")
    wait_limit(mount, 100000)
    config.unlink()
    wait_for(lambda: config.exists() or None, "config.toml to come back")
    assert "file_size_max" in config.read_text()
    assert limit(mount) == 100000


@pytest.mark.mount
def test_grace_is_in_effect_at_once() -> None:
    with mounted("rw") as mount:
        mount.run("echo grace = 3600 > config.toml; mkdir outbox/bob; echo text > outbox/bob/f")
        held = "bob/f: it was just changed"
        status = mount.path / "status"
        wait_for(lambda: held in status.read_text() or None, "the file to be held")
        mount.run("echo grace = 0 > config.toml")
        mount.wait_messages("text\n")


@pytest.mark.mount
def test_the_root_takes_nothing_else(mount: Mounted) -> None:
    for script in ("echo x > new", "mkdir config.toml.d", "ln -s /etc/passwd config.toml.error"):
        done = subprocess.run(
            ["sh", "-c", script], cwd=mount.path, capture_output=True, check=False
        )
        assert done.returncode != 0, script
    for target in ("README", "status", "tmp"):
        with pytest.raises(OSError):
            os.replace(mount.path / "config.toml", Path(mount.path / target))  # noqa: PTH105
    (mount.path / "config.toml").unlink()
    with pytest.raises(PermissionError):
        (mount.path / "config.toml").symlink_to("elsewhere")


def test_settings_may_come_from_windows() -> None:
    text = "\ufeffgrace = 3.0\r\n"
    assert decode(text.encode()) == decode(b"grace = 3.0\n") != Settings()
