"""The entry point: see the package."""

import sys
from collections.abc import Callable

from tests.server.attacks import accounts, blobs, disk, floods, names, silence, subscriptions

ATTACKS: dict[str, Callable[[], bool]] = {
    "accounts": accounts.attack,
    "disk": disk.attack,
    **floods.ATTACKS,
    **blobs.ATTACKS,
    "subscriptions": subscriptions.attack,
    "silence": silence.on_mail,
    "silence-names": silence.on_names,
    "commits": names.commits,
    "updates": names.updates,
    "full-names": names.full,
}


def main(names: list[str]) -> int:
    """Make the attacks of these names, or all; 0 when the server stood all."""
    failed = [name for name in names or ATTACKS if not ATTACKS[name]()]
    print(f"failed: {', '.join(failed)}" if failed else "the server stood them")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
