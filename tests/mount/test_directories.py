"""directories/: people of two name directories write to each other. Real programs, real mounts."""

import errno
import os
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cbfs_common.names.policy import parse_policy
from cbfs_common.person import directory_text
from tests.support.world import User, World, run, wait_for

ELSEWHERE = "other.example"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose ``elsewhere`` is a second directory, with a namespace of its own."""
    with ExitStack() as stack:
        made = World(tmp_path_factory.mktemp("directories"), stack)
        made.another_directory("elsewhere", ELSEWHERE)
        yield made


def policy_of(world: World, directory: str) -> Path:
    return world.place / directory / "policy"


def namespace_of(world: World, directory: str) -> str:
    return parse_policy(policy_of(world, directory).read_text()).namespace


def follow(user: User, policy: Path) -> None:
    user.run(f"cp '{policy}' directories/")


def write_all(user: User, name: str, text: str) -> None:
    """Into the conversation of all."""
    (folder,) = (user.mountpoint / "outbox").glob("20* all")
    (folder / name).write_text(text)


def status(user: User) -> str:
    return (user.mountpoint / "status").read_text()


def names(user: User, place: str) -> set[str]:
    return set(os.listdir(user.mountpoint / place))  # noqa: PTH208


def told_of(user: User) -> Iterator[tuple[str, str]]:
    """(path, text) of all that a user can read in a mount: names, small files, attributes."""
    for path in user.mountpoint.rglob("*"):
        yield str(path), path.name
        if not path.is_file() or path.stat().st_size > 100_000:
            continue
        if "directories" not in path.parts:
            yield str(path), path.read_bytes().decode(errors="replace")
        for name in os.listxattr(path):
            yield f"{path} {name}", os.getxattr(path, name).decode()


def test_people_of_two_directories_write_to_each_other(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob", directory="elsewhere")
    carol, there = here.user("carol"), f"bob@{ELSEWHERE}"
    home = namespace_of(here, "names")
    assert names(alice, "directories") == {home}
    # nobody of the other directory can be meant before it is followed
    alice.run(f"mkdir 'outbox/{there}'; echo hello > 'outbox/{there}/hi'")
    error = alice.mountpoint / "outbox" / f"{there}.error"
    wait_for(error.exists, "the error file")
    assert ELSEWHERE in error.read_text()
    assert "directories/" in error.read_text()

    follow(alice, policy_of(here, "elsewhere"))
    assert names(alice, "directories") == {home, ELSEWHERE}
    shown = (alice.mountpoint / "directories" / ELSEWHERE).read_text()
    assert parse_policy(shown) == parse_policy(policy_of(here, "elsewhere").read_text())
    # what was refused is sent by itself; bob does not follow alice's directory yet
    wait_for(lambda: not error.exists(), "the error to go")
    wait_for(lambda: "do not follow" in status(bob), "bob to be told")
    assert directory_text(parse_policy(policy_of(here, "names").read_text()).directory) in status(
        bob
    )
    assert not bob.messages()
    follow(bob, policy_of(here, "names"))
    got = bob.wait_message(f"alice@{home}", "hello\n")
    wait_for(lambda: "do not follow" not in status(bob), "bob's status to be well")
    assert got.parent.name.endswith(f"-alice@{home}-bob")
    # and back, in the conversation's folder
    bob.write(got.parent.name, "answer", "good to hear\n")
    answer = alice.wait_message(there, "good to hear\n")
    assert answer.parent.name.endswith(f"-alice-{there}")
    transcript = (answer.parent / "transcript").read_text()
    assert f"{there}: good to hear" in transcript
    metadata = tomllib.loads((answer.parent / "metadata.toml").read_text())
    assert sorted(metadata["participants"]) == ["alice", there]
    profile = tomllib.loads((alice.mountpoint / "contacts" / there / "profile.toml").read_text())
    assert profile["name"] == there
    assert alice.run(f"ls 'search/from:{there} good'").strip() == answer.name
    # both compare the same
    ours = (alice.mountpoint / "contacts" / there / "fingerprint").read_text()
    theirs = (bob.mountpoint / "contacts" / f"alice@{home}" / "fingerprint").read_text()
    assert ours.splitlines()[3:] == theirs.splitlines()[3:]
    said = (alice.mountpoint / "contacts" / there / "fingerprint").read_text().splitlines()[4:7]
    done = run("cbfs", "verify", alice.mountpoint, there, *" ".join(said).split())
    assert done.stdout == f"{there} is verified.\n", done.stderr

    # who is nobody there is told of under the name that was typed
    alice.run(f"mkdir 'outbox/nobody@{ELSEWHERE}'; echo hi > 'outbox/nobody@{ELSEWHERE}/hi'")
    nobody = alice.mountpoint / "outbox" / f"nobody@{ELSEWHERE}.error"
    wait_for(nobody.exists, "nobody to be told of")
    assert f"nobody is called nobody@{ELSEWHERE}." in nobody.read_text()
    alice.run(f"rm -r 'outbox/nobody@{ELSEWHERE}'")

    # three, of two directories; carol follows only her own
    alice.run(f"mkdir 'outbox/carol,{there} all'; echo three > 'outbox/carol,{there} all/m'")
    bob.wait_message(f"alice@{home}", "three\n")
    seen = carol.wait_message("alice", "three\n")
    unknown = f"bob@{directory_text(parse_policy(shown).directory)}"
    assert unknown in seen.parent.name
    carol.write(seen.parent.name, "c", "from carol\n")
    alice.wait_message("carol", "from carol\n")
    wait_for(lambda: f"{unknown} is of a name directory that you do not" in status(carol), "why")
    assert f"1 message to {unknown}" in status(carol)
    assert not bob.messages("carol")
    assert [where for where, text in told_of(carol) if unknown in text]
    follow(carol, policy_of(here, "elsewhere"))
    bob.wait_message(f"carol@{home}", "from carol\n")
    # what people are called changes everywhere
    wait_for(lambda: not any("@_" in name for name in names(carol, "outbox")), "the folder")
    follows = f"conversations/*-alice-bob@{ELSEWHERE}-carol all"
    wait_for(lambda: list(carol.mountpoint.glob(follows)), "the conversation under its new name")
    folder = next(carol.mountpoint.glob(follows))
    write_all(bob, "b", "bob here\n")
    carol.wait_message(there, "bob here\n")
    assert f"{there}: bob here" in (folder / "transcript").read_text()
    assert "bob here" not in (folder / "metadata.toml").read_text()

    # nobody who follows both is shown how a directory is kept
    for user in (alice, bob, carol):
        assert not [where for where, text in told_of(user) if "@_" in text]

    # all of it stays over a restart
    for user in (alice, carol):
        user.unmount()
        user.mount()
    assert names(alice, "directories") == {home, ELSEWHERE}
    assert "verified" in names(alice, f"contacts/{there}")
    assert folder.is_dir()
    write_all(alice, "again", "again\n")
    bob.wait_message(f"alice@{home}", "again\n")

    # a directory that is removed: its people stay, and nothing is sent to them
    carol.run(f"rm directories/{ELSEWHERE}")
    assert names(carol, "directories") == {home}
    moves = f"conversations/*-alice-{unknown}-carol all"
    # the folder of directories/ changes first, then what its people are called
    wait_for(lambda: list(carol.mountpoint.glob(f"{moves}/*-{unknown}")), "the messages to follow")
    moved = next(carol.mountpoint.glob(moves))
    assert f"{unknown}: bob here" in (moved / "transcript").read_text()
    wait_for(lambda: names(carol, "contacts") == {"alice", unknown}, "the contact to follow")
    write_all(carol, "held", "held\n")
    alice.wait_message("carol", "held\n")
    write_all(bob, "read", "still read\n")
    carol.wait_message(unknown, "still read\n")
    wait_for(lambda: f"1 message to {unknown}" in status(carol), "it to wait")
    assert not [p for p in bob.messages("carol") if p.read_text() == "held\n"]
    follow(carol, policy_of(here, "elsewhere"))
    bob.wait_message(f"carol@{home}", "held\n")
    wait_for(lambda: names(carol, "contacts") == {"alice", there}, "bob's folder")


def test_what_is_no_policy_or_another_s_namespace_is_refused(here: World) -> None:
    dave = here.user("dave")
    impostor = here.another_directory("impostor", ELSEWHERE)
    follow(dave, policy_of(here, "elsewhere"))
    before = {
        name: (dave.mountpoint / "directories" / name).read_bytes()
        for name in names(dave, "directories")
    }
    text = impostor.read_text()
    wrong = {
        "impostor": (text, "is followed as other.example"),
        "noise": ("hello\n", "not understood"),
        "empty-line": (text.replace("quorum", "quorun"), "not understood"),
        "letters": (text.replace(ELSEWHERE, "\u043ether.example"), "ASCII"),
        "case": (text.replace(ELSEWHERE, "Other.example"), ""),
        "long": (text + "#" * 70_000, "too large"),
    }
    for name, (data, why) in wrong.items():
        place = dave.mountpoint / "directories" / name
        with pytest.raises(OSError, match="Invalid argument") as error:
            place.write_text(data)
        assert error.value.errno == errno.EINVAL
        assert why in place.with_name(f"{name}.error").read_text()
        assert "a policy was not taken" in status(dave)
        assert not place.exists()
        place.with_name(f"{name}.error").unlink()
        after = {n: (dave.mountpoint / "directories" / n).read_bytes() for n in before}
        assert after == before
        assert names(dave, "directories") == before.keys()
    assert subprocess.run(["cp", impostor, dave.mountpoint / "directories"], check=False).returncode
    home = namespace_of(here, "names")
    with pytest.raises(PermissionError):
        (dave.mountpoint / "directories" / home).unlink()
    # the same policy once more, under its own name and over it, is no change
    follow(dave, policy_of(here, "elsewhere"))
    dave.run(f"cp '{policy_of(here, 'elsewhere')}' directories/{ELSEWHERE}")
    dave.run(f"cp '{policy_of(here, 'names')}' directories/")
    # its name is not the user's to choose; nor would what a link leads to be looked at
    elsewhere = dave.mountpoint / "directories" / ELSEWHERE
    for change in ("mv directories/{0} directories/x", "ln -s '{1}' directories/x"):
        line = change.format(ELSEWHERE, policy_of(here, "elsewhere"))
        done = subprocess.run(line, shell=True, cwd=dave.mountpoint, check=False)
        assert done.returncode
    assert elsewhere.exists()
    assert "a policy was not taken" not in status(dave)
    assert names(dave, "directories") == before.keys() | {"impostor.error", "policy.error"} & names(
        dave, "directories"
    )
    dave.unmount()
    dave.mount()
    assert names(dave, "directories") == before.keys()
    # the other one can be followed instead
    dave.run(f"rm directories/{ELSEWHERE}")
    follow(dave, impostor)
    assert parse_policy((dave.mountpoint / "directories" / ELSEWHERE).read_text()) == parse_policy(
        text
    )


WAYS = (
    "cp '{}' directories/x.part; mv directories/x.part directories/x",
    "cat '{}' >directories/.x.tmp; mv directories/.x.tmp directories/other.example",
    "rsync '{}' directories/",
    "cp '{0}' directories/; rsync -I --inplace '{0}' directories/other.example",
    "cp '{}' tmp/p; mv tmp/p directories/",
    "cp '{}' directories/x; sed -i s/quorum/quorum/ directories/other.example",
    "cp '{}' directories/x; vim -e -s -c 'normal Ax' -c 'normal x' -c wq directories/other.example",
    "tar cf - -C '{0.parent}' {0.name} | tar xf - -C directories/ --no-same-owner -m",
    "install -m 600 '{}' tmp/y; mv tmp/y directories/.y; mv directories/.y directories/z",
)
"""To save a policy there, as programs do it."""


def test_programs_save_policies_as_they_save_files(here: World) -> None:
    erin, policy = here.user("erin"), policy_of(here, "elsewhere")
    home = namespace_of(here, "names")
    for way in WAYS:
        erin.run(f"set -e; {way.format(policy)}")
        left = names(erin, "directories")
        assert left == {home, ELSEWHERE}, way
        shown = (erin.mountpoint / "directories" / ELSEWHERE).read_text()
        assert parse_policy(shown) == parse_policy(policy.read_text()), way
        if "sed" not in way and "vim" not in way:
            assert "a policy was not taken" not in status(erin)
        erin.run(f"rm directories/{ELSEWHERE}")
    # what is none stays under its own name, and says why
    folder = erin.mountpoint / "directories"
    (folder / "x.part").write_text("hello\n")
    assert names(erin, "directories") == {home, "x.part"}
    for new in ("x", ELSEWHERE, home):
        with pytest.raises(PermissionError):
            (folder / "x.part").rename(folder / new)
        assert "not understood" in (folder / f"{new}.error").read_text()
        (folder / f"{new}.error").unlink()
    (folder / "x.part").rename(folder / ".y.Ab12cd")
    assert (folder / ".y.Ab12cd").read_text() == "hello\n"
    assert parse_policy((folder / home).read_text()) == parse_policy(
        policy_of(here, "names").read_text()
    )
    for name in (home, ELSEWHERE):  # a policy that counts is not moved
        follow(erin, policy)
        with pytest.raises(PermissionError):
            (folder / name).rename(folder / "x.part")
    with pytest.raises(PermissionError):
        (folder / "x").hardlink_to(folder / ".y.Ab12cd")
    erin.unmount()
    erin.mount()
    assert names(erin, "directories") == {home, ELSEWHERE}
