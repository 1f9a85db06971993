"""Programs of this machine write to its users by their login names, as cron does to the owner of a
crontab: who has registered such a name may be a stranger."""

import pwd
from collections.abc import Container, Iterable

from cbfs.commands.sendmail.letter import Recipient
from cbfs.commands.sendmail.options import Exit, NotSent
from cbfs.messages.mail_ids import DOMAIN


def check_logins(people: Iterable[Recipient], known: Container[str], hint: str = "") -> None:
    """Raises NotSent for a bare name that a user of this machine has, and nobody who is ``known``.
    ``hint``: what else helps."""
    for each in people:
        name = each.name
        if each.is_address or name in known or not _is_login(name):
            continue
        raise NotSent(
            Exit.NOUSER,
            f"{name} is a user of this machine, and may be somebody else here",
            f"write to {name}@{DOMAIN} if you mean them, or name a person, as by MAILTO=NAME in a"
            f" crontab{hint}",
        )


def _is_login(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True
