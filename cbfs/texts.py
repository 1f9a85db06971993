"""The texts that the mount shows: README, status, metadata.toml, profile.toml, contacts."""

import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime

import tomli_w

from cbfs.model import Contact, Conversation, Refused, Report
from cbfs_common.profile import Profile

METADATA_MAX = 65_536

README = """This folder is a messenger. Files are messages.

Write to somebody        mkdir outbox/bob
                         echo hello > outbox/bob/hi
to several, with subject mkdir 'outbox/bob,carol lunch'
Read                     ls conversations/*
                         cat conversations/*/*alice*
Answer                   save a file in the folder of the same name under outbox/
Take back                rm the file in outbox/ before it is sent: a second after it
                         was last changed, or when the editor that has it open ends
Delete                   rm conversations/.../MESSAGE
How things are           cat status
Settings                 edit config.toml

A message that cannot be sent stays in outbox/ with NAME.error beside it, which says
why. Rename or change the file to try again.

tmp/ is for files that you prepare; it is emptied at unmount. ui_info/ is for programs
that keep something of their own here. Unmount: fusermount3 -u on this folder.
"""


def moment(milliseconds: int) -> datetime:
    """For people and TOML, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def metadata_text(conversation: Conversation) -> str:
    """metadata.toml of a conversation."""
    return tomli_w.dumps(
        {
            "id": conversation.id.hex(),
            "participants": list(conversation.participants),
            "subject": conversation.subject,
            "started": moment(conversation.started),
        }
    )


def read_metadata(data: bytes) -> tuple[tuple[str, ...], str]:
    """(participants, subject) of a metadata.toml that a user wrote. Raises Refused."""
    try:
        if len(data) > METADATA_MAX:
            raise ValueError("it is too long")
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(f"metadata.toml is wrong: {error}", "mend it") from error
    participants, subject = table.get("participants"), table.get("subject", "")
    if not isinstance(participants, list) or not all(isinstance(n, str) for n in participants):
        raise Refused("metadata.toml is wrong", 'it needs: participants = ["bob", "carol"]')
    if not isinstance(subject, str):
        raise Refused("metadata.toml is wrong", 'subject is a text: subject = "lunch"')
    return tuple(participants), subject


def read_folder_name(name: str) -> tuple[tuple[str, ...], str]:
    """(participants, subject) that a folder name says: ``bob,carol lunch``."""
    people, _, subject = name.partition(" ")
    return tuple(person for person in people.split(",") if person), subject.strip()


def status_text(name: str, report: Report, held: Sequence[tuple[str, str]]) -> str:
    """The file ``status``. ``held``: (path, why) of what stays in the outbox."""
    lines = [f"{name}: {report.connection}", *report.network, ""]
    if report.queue:
        lines.append("waiting to be delivered:")
        lines += [f"  {line}" for line in report.queue]
    else:
        lines.append("everything that was sent is delivered")
    if report.unreceived:
        lines.append("delivered, without a receipt so far:")
        lines += [f"  {line}" for line in report.unreceived]
    if held:
        lines.append("in the outbox:")
        lines += [f"  {path}: {why}" for path, why in held]
    if report.problems:
        lines.append("problems:")
        lines += [f"  {line}" for line in report.problems]
    return "\n".join(lines) + "\n"


def profile_text(name: str, profile: Profile) -> str:
    """A profile as TOML."""
    return tomli_w.dumps(
        {
            "name": name,
            "server": profile.server.url(),
            "user_id": profile.user_id.hex(),
            "signing_key": profile.signing.hex(),
            "auth_key": profile.auth.hex(),
        }
    )


def contact_text(contact: Contact) -> str:
    """A file under contacts/."""
    return profile_text(contact.name, contact.profile) + tomli_w.dumps(
        {"since": moment(contact.since), "known": "by the name directory"}
    )


def error_text(error: Exception, hint: str) -> str:
    """An error file."""
    text = f"This was not sent: {error}.\n"
    return f"{text}What to do: {hint}.\n" if hint else text
