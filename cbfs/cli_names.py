"""``cbfs name`` and ``cbfs verify``."""

import argparse
import errno
import os
import sys
from pathlib import Path

from cbfs.areas import VERIFIED
from cbfs.cli_network import absolute, add_account, add_network, network_options, say
from cbfs.owner import Owner
from cbfs.user_names import typed_name
from cbfs_common.errors import CbfsError
from cbfs_common.profile import parse_address

_NAME_EXAMPLES = """examples:
  cbfs name show
  cbfs name update --server cbfs://KEY@HOST:PORT    move to another home server
  cbfs name rotate --recovery usb-stick/recovery    new keys, and one for the worst case
Unmount the account first; mounted again, it tells your contacts by itself.
"""


def add_name(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """``cbfs name``."""
    parser = commands.add_parser(
        "name",
        help="look after one's own name",
        description="What the owner of a name does with it in the name directory.",
        epilog=_NAME_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what the directory has")
    show.set_defaults(run=_show)
    update = actions.add_parser("update", help="move to another home server")
    update.add_argument("--server", required=True, metavar="URL", help="cbfs://KEY@HOST:PORT")
    update.set_defaults(run=_update)
    rotate = actions.add_parser("rotate", help="put new keys in the place of all old ones")
    rotate.add_argument(
        "--recovery",
        type=Path,
        metavar="FILE",
        help="make a recovery key as well, into a new file (0600) to be kept elsewhere",
    )
    rotate.set_defaults(run=_rotate)
    for action in (show, update, rotate):
        add_account(action)
        add_network(action)


def add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """``cbfs verify``."""
    parser = commands.add_parser(
        "verify", help="compare a contact's fingerprint by voice, and say that it fits"
    )
    parser.add_argument("mountpoint", type=Path, metavar="MOUNT")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "fingerprint",
        nargs="*",
        metavar="FINGERPRINT",
        help="what the other side sees, words or digits (default: show it, and ask)",
    )
    parser.set_defaults(run=_verify)


def _owner(options: argparse.Namespace) -> Owner:
    return Owner(options.account.absolute(), network_options(options), say)


def _show(options: argparse.Namespace) -> int:
    sys.stdout.write(_owner(options).show())
    return 0


def _update(options: argparse.Namespace) -> int:
    _owner(options).move(parse_address(options.server))
    print("Moved. Mount the account, so that your contacts hear of it.")
    return 0


def _rotate(options: argparse.Namespace) -> int:
    _owner(options).rotate(absolute(options.recovery))
    print("All keys are new. Mount the account, so that your contacts hear of it.")
    if options.recovery:
        print(f"Keep {options.recovery} apart from the account: it can take the name over.")
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Through the mount, by the files that everybody can use."""
    name = typed_name(options.name)
    folder = options.mountpoint / "contacts" / name
    try:
        text = (folder / "fingerprint").read_text(encoding="utf-8")
    except OSError as error:
        raise CbfsError(
            f"there is no contact {name} in {options.mountpoint}",
            "write to them once, or see contacts/ of the mount",
        ) from error
    said = " ".join(options.fingerprint)
    if not said:
        sys.stdout.write(text)
        print(f"\nDoes {name} see the same? Type yes to say so: ", end="", flush=True)
        if sys.stdin.readline().strip().lower() != "yes":
            raise CbfsError(
                f"{name} is not verified", "compare again, by another way than this one"
            )
        said = text
    _write(folder / VERIFIED, said, name)
    print(f"{name} is verified.")
    return 0


def _write(path: Path, text: str, name: str) -> None:
    try:
        path.unlink(missing_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise CbfsError(
                f"this is not the fingerprint of {name}",
                "a slip of the tongue, or somebody is between you: compare again",
            ) from error
        raise CbfsError(f"cannot write {path}: {os.strerror(error.errno or 0).lower()}") from error
