"""``cbfs name`` and ``cbfs verify``: their command lines, and what they say."""

import argparse
import errno
import os
import sys
from pathlib import Path

from cbfs.account.passphrase import PassphraseSource, unlocking
from cbfs.commands.account import add_old_passphrase
from cbfs.commands.mountpoints import is_in_a_mount, no_mount
from cbfs.commands.name_owner import Owner
from cbfs.commands.options import absolute, add_account, add_network, network_options, say
from cbfs.contacts.user_names import typed_name
from cbfs.messages.file_names import moment
from cbfs.tree.rules import VERIFIED
from cbfs_common.errors import CbfsError
from cbfs_common.profile import parse_address

_NAME_EXAMPLES = """examples:
  cbfs name show
  cbfs name update --server cbfs://KEY@HOST:PORT    move to another home server
  cbfs name rotate --stolen                         somebody may have a copy of the account
  cbfs name rotate --recovery usb-stick/recovery    new keys, and one for the worst case
  cbfs name freeze usb-stick/freeze                 for a lost computer
Unmount the account first; mounted again, it tells your contacts by itself.
"""


def add_name(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``cbfs name``."""
    parser = commands.add_parser(
        "name",
        help="look after your own name",
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
    rotate = actions.add_parser("rotate", help="replace all your keys by new ones")
    rotate.add_argument(
        "--recovery",
        type=Path,
        metavar="FILE",
        help="make a recovery key as well, into a new file (0600) to be kept elsewhere",
    )
    rotate.add_argument(
        "--stolen",
        action="store_true",
        help="somebody else may have the keys: nothing that is under them counts any more",
    )
    rotate.set_defaults(run=_rotate)
    renew = actions.add_parser("renew", help="renew the name, to keep it for longer")
    renew.set_defaults(run=_renew)
    freeze = actions.add_parser(
        "freeze", help="write a certificate to be kept for a lost computer, or use it"
    )
    freeze.add_argument("file", type=Path, metavar="FILE", help="where it is kept (0600)")
    freeze.add_argument(
        "--names",
        type=Path,
        metavar="POLICYFILE",
        help="use it: freeze the name at this directory, from any computer, without the account",
    )
    freeze.set_defaults(run=_freeze)
    recover = actions.add_parser(
        "recover", help="recover your name by its recovery key, into a new account"
    )
    recover.add_argument("name", metavar="NAME")
    recover.add_argument("--recovery", required=True, type=Path, metavar="FILE")
    recover.add_argument("--server", required=True, metavar="URL", help="cbfs://KEY@HOST:PORT")
    recover.add_argument("--names", required=True, type=Path, metavar="POLICYFILE")
    recover.set_defaults(run=_recover)
    cancel = actions.add_parser("cancel", help="stop a recovery that you did not begin")
    cancel.set_defaults(run=_cancel)
    release = actions.add_parser("release", help="give the name up, for good")
    release.add_argument("name", metavar="NAME", help="the name, to be sure")
    release.set_defaults(run=_release)
    for action in (show, update, rotate, renew, freeze, recover, cancel, release):
        add_account(action)
        add_old_passphrase(action)
        add_network(action)


def add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``cbfs verify``."""
    parser = commands.add_parser(
        "verify", help="compare a contact's fingerprint by voice, and say that it is the same"
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
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    return Owner(options.account.absolute(), network_options(options), say, unlock)


def _show(options: argparse.Namespace) -> int:
    sys.stdout.write(_owner(options).show())
    return 0


def _update(options: argparse.Namespace) -> int:
    _owner(options).move(parse_address(options.server))
    print("Moved. Mount the account, so that your contacts hear of it.")
    return 0


def _rotate(options: argparse.Namespace) -> int:
    _owner(options).rotate(absolute(options.recovery), stolen=options.stolen)
    print("All keys are new. Mount the account, so that your contacts hear of it.")
    if options.recovery:
        print(f"Keep {options.recovery} apart from the account: it can take the name over.")
    return 0


def _renew(options: argparse.Namespace) -> int:
    print(f"The name is yours until {_owner(options).renew()}.")
    return 0


def _freeze(options: argparse.Namespace) -> int:
    if options.names is None:
        _owner(options).certify(options.file)
        print(f"{options.file} freezes the name when it is used: keep it apart from the account.")
        print("Write a new one after you have rotated your keys.")
    else:
        name = _owner(options).freeze(options.names, options.file)
        print(
            f"{name} is frozen: its keys can change nothing any more. Recover it: cbfs name recover"
        )
    return 0


def _recover(options: argparse.Namespace) -> int:
    name, server = typed_name(options.name), parse_address(options.server)
    due = _owner(options).recover(name, server, options.names, options.recovery)
    if due:
        when = f"{moment(due * 1_000):%Y-%m-%d %H:%M} UTC"
        print(f"The recovery of {name} is under way. Run the same command after {when}.")
    else:
        print(
            f"{name} is yours again. Mount it: mount.cbfs {options.account.absolute()} MOUNTPOINT"
        )
    return 0


def _cancel(options: argparse.Namespace) -> int:
    _owner(options).cancel()
    print("The recovery has ended. Rotate your keys, with a new recovery key.")
    return 0


def _release(options: argparse.Namespace) -> int:
    name = typed_name(options.name)
    _owner(options).release(name)
    print(f"{name} is given up.")
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Verify a contact through the mount, by the files that everybody can use; the exit code."""
    name = typed_name(options.name)
    folder = options.mountpoint / "contacts" / name
    if not is_in_a_mount(options.mountpoint):
        raise no_mount(options.mountpoint, None)
    try:
        text = (folder / "fingerprint").read_text(encoding="utf-8")
    except OSError as error:
        if not folder.parent.is_dir():
            raise no_mount(options.mountpoint, error) from error
        raise CbfsError(
            f"there is no contact {name} in {options.mountpoint}",
            "write to them once, or see contacts/ of the mount",
        ) from error
    said = " ".join(options.fingerprint)
    if not said:
        sys.stdout.write(text)
        print(f"\nDoes {name} see the same? Type yes to say so: ", end="", flush=True)
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            raise CbfsError(
                f"{name} is not verified", "compare again, in another way than this one"
            )
        said = text
    _write(folder / VERIFIED, said, name)
    print(f"{name} is verified.")
    return 0


def _write(path: Path, text: str, name: str) -> None:
    try:
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise CbfsError(
                f"this is not the fingerprint of {name}",
                "a slip of the tongue, or somebody is between you: compare again",
            ) from error
        raise CbfsError(f"cannot write {path}: {os.strerror(error.errno or 0).lower()}") from error
