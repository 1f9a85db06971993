"""contacts/ of a mount, names as people type them, and what they compare by voice."""

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.contacts.contact import Contact, How, decode_contact
from cbfs.contacts.fingerprint import fingerprint
from cbfs.contacts.user_names import look_alike, typed_name
from cbfs.contacts.words import read_seed_words, seed_words, word_list
from cbfs.problems import Refused
from cbfs.tree.texts import read_folder_name
from cbfs_common.errors import DecodeError
from cbfs_common.person import check_name
from tests.support.fake_backend import BOB
from tests.support.mounted import Mounted, Watch
from tests.support.world import wait_for

# Fingerprints


def test_the_words_are_bip_39_s() -> None:
    data = files("cbfs.contacts").joinpath("words.txt").read_bytes()
    known = "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
    assert hashlib.sha256(data).hexdigest() == known
    assert len(set(word_list())) == 2_048


@pytest.mark.parametrize(
    ("seed", "first", "last"),
    [
        (bytes(32), "abandon", "art"),
        (b"\x7f" * 32, "legal", "title"),
        (b"\x80" * 32, "letter", "bless"),
        (b"\xff" * 32, "zoo", "vote"),
    ],
)
def test_seeds_are_the_words_that_others_make_of_them(seed: bytes, first: str, last: str) -> None:
    """As in BIP 39's own vectors."""
    made = seed_words(seed)
    assert (len(made), made[0], made[-1]) == (24, first, last)


@given(st.binary(min_size=32, max_size=32))
def test_words_are_read_back_however_they_are_typed(seed: bytes) -> None:
    words = seed_words(seed)
    for text in (
        " ".join(words),
        "\n".join(words).upper(),
        "  ".join(word[:4] for word in words) + "\n",
    ):
        assert read_seed_words(text) == seed


@given(st.binary(min_size=32, max_size=32), st.integers(0, 23), st.sampled_from(word_list()))
def test_a_slip_of_the_pen_makes_no_other_seed(seed: bytes, place: int, word: str) -> None:
    """But for one in 256."""
    words = list(seed_words(seed))
    words[place] = word
    try:
        other = read_seed_words(" ".join(words))
    except DecodeError as error:
        assert str(error) == "the words do not fit together"  # and none of them
    else:
        assert list(seed_words(other)) == words


@pytest.mark.parametrize("count", [0, 1, 12, 23, 25])
def test_words_that_are_too_few_or_unknown_are_refused(count: int) -> None:
    with pytest.raises(DecodeError, match="not 24"):
        read_seed_words("abandon " * count)
    with pytest.raises(DecodeError, match="word 24 is not"):
        read_seed_words("abandon " * 23 + "xyzzy")


def test_fingerprint_is_the_same_on_both_sides_and_of_these_two_alone() -> None:
    one, other, third = (bytes([n]) * 32 for n in range(3))
    made = fingerprint(one, other)
    assert made == fingerprint(other, one)
    assert len(made.words) == 18
    assert len(made.digits) == 12
    assert all(len(group) == 5 and group.isdigit() for group in made.digits)
    foreign = fingerprint(one, third)
    assert made != foreign
    text = made.text("alice", "bob12345")
    assert text == made.text("bob12345", "alice")
    for good in (text, " ".join(made.digits), "".join(made.digits), " ".join(made.words).upper()):
        assert made.is_in(good)
        assert not foreign.is_in(good)
    for bad in ("", "yes", " ".join(made.digits[1:]), " ".join(reversed(made.words))):
        assert not made.is_in(bad)


# Names


def test_names_mean_the_same_however_they_are_typed() -> None:
    assert typed_name("Bob") == "bob"
    assert typed_name("\uff22\uff2f\uff22") == "bob"  # full width
    assert typed_name("ALICE_2") == "alice_2"
    assert read_folder_name("Bob,CAROL lunch at Ten") == (("bob", "carol"), "lunch at Ten")
    for typed in ("bob, carol lunch, then", "bob ,carol  lunch, then", "bob,, carol lunch, then"):
        assert read_folder_name(typed) == (("bob", "carol"), "lunch, then")
    assert read_folder_name("bob, ") == (("bob",), "")
    for bad in ("b\u043eb", "zo\u00eb", "bo b", "", "x" * 33, "\ud800bob", "con", "..", "b\0b"):
        with pytest.raises(DecodeError):
            typed_name(bad)
    with pytest.raises(Refused):
        read_folder_name("b\u043eb")


def test_a_folder_that_is_called_like_one_of_a_conversation_is_for_nobody() -> None:
    """mkdir -p, rsync and git make one of the name of before, when the conversation goes on under
    another one: and that may be somebody's user name."""
    of_before = "2026-11-29-alice-bob"
    assert typed_name(of_before)
    for name in (of_before, f"{of_before} lunch", f"{of_before},carol"):
        with pytest.raises(Refused, match="no conversation has the folder 2026"):
            read_folder_name(name)
    assert read_folder_name("2026-alice") == (("2026-alice",), "")


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    try:
        name = typed_name(text)
    except DecodeError:
        return
    assert check_name(name) == name == typed_name(name)


def test_look_alikes_are_found() -> None:
    for name, other in (
        ("b0b", "bob"),
        ("rnary", "mary"),
        ("al1ce", "alice"),
        ("alcie", "alice"),
        ("alicee", "alice"),
        ("alce", "alice"),
        ("peter-pan", "peterpan"),
        ("alike", "alice"),
    ):
        expected = other if len(name) >= 5 or name in {"b0b", "rnary"} else None
        assert look_alike(name, [other]) == expected, name
    for name, other in (("bob", "bob"), ("bob", "rob"), ("carol", "bob"), ("alice", "ecila")):
        assert look_alike(name, [other]) is None


# Contacts in the store


def test_contact_comes_back_from_the_store() -> None:
    bare = Contact(BOB, 5)
    full = Contact(BOB, 5, How.USER, 6, 7, replace(BOB, incarnation=2), 8, 9, "beware", 10, 11)
    for contact in (bare, full):
        assert decode_contact(contact.encode()) == contact
    with pytest.raises(DecodeError):
        decode_contact(bare.encode()[:-1])


def test_other_keys_have_to_be_compared_anew_and_another_server_has_not() -> None:
    known = Contact(BOB, 5, verified=7, doubted=8)
    profile = known.profile
    server = replace(profile, server=replace(profile.server, host="elsewhere"))
    moved = known.moved_to(replace(BOB, version=2, profile=server.encode()), 9)
    assert (moved.verified, moved.moved, moved.doubted) == (7, 9, 0)
    keys = replace(profile, auth=bytes([9]) * 32)
    changed = known.moved_to(replace(BOB, version=2, profile=keys.encode()), 9)
    assert (changed.verified, changed.moved) == (0, 9)
    renewed = known.moved_to(replace(BOB, version=2), 9)
    assert (renewed.verified, renewed.moved) == (7, 0)


# In a real mount


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    mounted = Mounted(tmp_path)
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.close()


def wait_gone(path: Path) -> None:
    wait_for(lambda: not path.exists() or None, f"{path.name} to go")


@pytest.mark.mount
def test_verifying_is_copying_the_fingerprint(mount: Mounted) -> None:
    bob = mount.path / "contacts" / "bob"
    assert sorted(path.name for path in bob.iterdir()) == ["fingerprint", "profile.toml"]
    assert "verified = false" in (bob / "profile.toml").read_text()
    mount.run("cp contacts/bob/fingerprint contacts/bob/verified")
    assert (bob / "verified").read_text() == (bob / "fingerprint").read_text()
    assert "verified = false" not in (bob / "profile.toml").read_text()
    mount.run("rm contacts/bob/verified")
    assert "verified = false" in (bob / "profile.toml").read_text()
    wait_gone(bob / "verified")
    mount.run("cat contacts/bob/fingerprint > contacts/bob/verified; ls contacts/bob/verified")


@pytest.mark.mount
def test_what_does_not_fit_decides_nothing(mount: Mounted) -> None:
    bob = mount.path / "contacts" / "bob"
    for name in ("verified", "accepted"):
        done = subprocess.run(
            ["cp", bob / "profile.toml", bob / name], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert "Invalid argument" in done.stderr
        wait_gone(bob / name)
    for script in (
        "touch other",
        "rm fingerprint",
        "mkdir folder",
        "rmdir ../bob",
        "ln fingerprint verified",
        "ln -s fingerprint other",
    ):
        tried = subprocess.run(["sh", "-c", script], cwd=bob, capture_output=True, check=False)
        assert tried.returncode != 0, script
    assert sorted(path.name for path in bob.iterdir()) == ["fingerprint", "profile.toml"]


@pytest.mark.mount
def test_new_owner_shows_and_is_accepted_by_a_copy(mount: Mounted) -> None:
    bob = mount.path / "contacts" / "bob"
    before = (bob / "fingerprint").read_text()
    mount.order("reregister")
    wait_for(lambda: (bob / "CHANGED").exists() or None, "CHANGED")
    text = (bob / "CHANGED").read_text()
    assert "registered it anew" in text
    assert "Nothing is sent to bob" in text
    fingerprint_now = (bob / "fingerprint").read_text()
    assert fingerprint_now != before
    (mount.path / "tmp" / "old").write_text(before)
    done = subprocess.run(
        ["cp", mount.path / "tmp" / "old", bob / "verified"], capture_output=True, check=False
    )
    assert done.returncode != 0
    assert (bob / "CHANGED").exists()
    mount.run("cp contacts/bob/CHANGED contacts/bob/accepted")
    wait_gone(bob / "CHANGED")
    assert not (bob / "accepted").exists()
    assert "your word" in (bob / "profile.toml").read_text()
    mount.order("reregister")
    wait_for(lambda: (bob / "CHANGED").exists() or None, "CHANGED")
    mount.run("cp contacts/bob/fingerprint contacts/bob/verified")
    wait_gone(bob / "CHANGED")
    assert (bob / "verified").exists()


@pytest.mark.mount
def test_who_is_muted_is_read_and_not_unread(mount: Mounted) -> None:
    muted, unread = mount.path / "contacts" / "bob" / "muted", mount.path / "unread"
    mount.run("touch contacts/bob/muted")
    assert "not in unread/" in muted.read_text()
    watch = Watch(unread)
    mount.arrive("bob", "one")
    mount.wait_messages("one\n", sender="bob")
    mount.run("rm contacts/bob/muted")
    mount.arrive("bob", "two")
    watch.wait("-bob")
    (name,) = watch.names  # what comes is shown in order: there was none for the first
    watch.close()
    assert (unread / name).read_text() == "two\n"
    mount.arrive("bob", "three")
    wait_for(lambda: [p for p in unread.iterdir() if p.name != name] or None, "the third")
    mount.unmount()
    mount.mount()
    assert [path.read_text() for path in unread.iterdir()] == ["three\n"]


@pytest.mark.mount
def test_nothing_is_sent_to_who_is_blocked_until_that_is_undone(mount: Mounted) -> None:
    bob = mount.path / "contacts" / "bob"
    mount.run("touch contacts/bob/blocked; mkdir outbox/bob; echo no > outbox/bob/note")
    error = mount.path / "outbox" / "bob" / "note.error"
    wait_for(lambda: error.exists() or None, "the error file")
    assert "you have blocked bob" in error.read_text()
    assert "rm contacts/bob/blocked" in error.read_text()
    assert "dropped unseen" in (bob / "blocked").read_text()
    mount.run("rm contacts/bob/blocked")
    wait_gone(error)
    mount.wait_messages("no\n")
    wait_gone(bob / "blocked")
    for name in ("blocked", "muted"):  # every way to make a file does it
        mount.run(f": > contacts/bob/{name}")
        assert (bob / name).read_text().startswith("Since ")
        mount.run(f"rm contacts/bob/{name}; echo yes > contacts/bob/{name}; rm contacts/bob/{name}")
        wait_gone(bob / name)


@pytest.mark.mount
def test_warning_about_one_s_own_name_is_a_file(mount: Mounted) -> None:
    warning = mount.path / "WARNING"
    assert not warning.exists()
    mount.order("alarm somebody has your key")
    wait_for(lambda: warning.exists() or None, "the warning")
    assert "somebody has your key" in warning.read_text()
    assert "YOUR NAME IS NOT SAFE" in (mount.path / "status").read_text()
    mount.order("lapse alice runs out tomorrow")
    wait_for(lambda: "alice runs out tomorrow" in warning.read_text() or None, "both warnings")
    assert "somebody has your key" in warning.read_text()
    mount.order("alarm ")
    wait_for(lambda: "somebody has your key" not in warning.read_text() or None, "one to go")
    assert warning.read_text().startswith("Your name cannot be kept: alice runs out tomorrow.")
    assert "YOUR NAME CANNOT BE KEPT: alice" in (mount.path / "status").read_text()
    mount.order("stopped another copy is in use")
    wait_for(lambda: "Another copy is in use." in warning.read_text() or None, "one more")
    assert "cbfs claim" in warning.read_text()
    assert "THIS COPY HAS STOPPED: another copy" in (mount.path / "status").read_text()
    mount.order("lapse ")
    wait_for(lambda: warning.read_text().startswith("Another copy") or None, "one to go")
    mount.order("stopped ")
    wait_gone(warning)
    assert "YOUR NAME" not in (mount.path / "status").read_text()
