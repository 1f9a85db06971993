"""Strangers in conversations that somebody known has begun: real mounts."""

from collections.abc import Iterator

import pytest

from tests.mount.test_requests import listed, wait_request
from tests.support.world import User, World, wait_for, world


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, User]]:
    with world(tmp_path_factory.mktemp("w")) as made:
        made.open = False
        yield made, made.user("bob")


@pytest.mark.mount
def test_in_a_group_that_a_contact_has_begun_all_are_heard(
    people: tuple[World, User],
) -> None:
    """erin is bob's contact, frank is not: what frank says in erin's group is shown, what he
    writes to bob alone waits."""
    made, bob = people
    erin, frank = made.user("erin"), made.user("frank")
    (bob.mountpoint / "outbox" / "erin").mkdir()
    bob.write("erin", "note", "hello erin\n")
    (erin.mountpoint / "outbox" / "bob,frank trip").mkdir()
    erin.write("bob,frank trip", "note", "all of us\n")
    folder = bob.wait_message("erin", "all of us\n").parent.name
    wait_request(frank, "erin")
    frank.run("mv requests/erin contacts/")
    frank.wait_message("erin", "all of us\n")
    frank.write(folder, "answer", "I am in\n")
    bob.wait_message("frank", "I am in\n")
    profile = bob.mountpoint / "contacts" / "frank" / "profile.toml"
    wait_for(lambda: profile.exists() or None, "frank in contacts/")
    assert "accepted = false" in profile.read_text()
    (frank.mountpoint / "outbox" / "bob").mkdir()
    frank.write("bob", "note", "by the way\n")
    wait_request(bob, "frank")
    assert not [path for path in bob.messages("frank") if path.read_text() == "by the way\n"]
    bob.run("mv requests/frank contacts/")
    bob.wait_message("frank", "by the way\n")
    assert "accepted" not in profile.read_text()
    assert "frank" not in listed(bob.mountpoint / "requests")


@pytest.mark.mount
def test_who_answers_in_a_group_waits_for_its_beginner_only(
    people: tuple[World, User],
) -> None:
    """The answer is here before its conversation is accepted."""
    made, bob = people
    judy, kate = made.user("judy"), made.user("kate")
    (judy.mountpoint / "outbox" / "bob,kate").mkdir()
    judy.write("bob,kate", "note", "who comes\n")
    wait_request(kate, "judy")
    kate.run("mv requests/judy contacts/")
    folder = kate.wait_message("judy", "who comes\n").parent.name
    kate.write(folder, "answer", "I do\n")
    wait_request(bob, "judy")
    message = wait_request(bob, "kate") / "message"
    assert "kate has written to you, with judy\n" in message.read_text()
    bob.run("mv requests/judy contacts/")
    bob.wait_message("judy", "who comes\n")
    bob.wait_message("kate", "I do\n")
    wait_for(lambda: not listed(bob.mountpoint / "requests"), "kate's request to go")
    assert (bob.mountpoint / "contacts" / "kate" / "profile.toml").exists()
