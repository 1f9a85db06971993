"""``cbfs name``: its command line, and what it says."""

import argparse
import sys
from pathlib import Path
from typing import TypeAlias

from cbfs.account.passphrase import unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.commands.account import add_old_passphrase, tell_ready
from cbfs.commands.options import (
    absolute,
    add_account,
    add_network,
    add_server_invite,
    network_options,
    say,
)
from cbfs.commands.owner.kept_apart import OwnerKey, tell_kept
from cbfs.commands.owner.name_owner import Owner
from cbfs.contacts.user_names import typed_name
from cbfs.messages.file_names import moment
from cbfs_common.profile import parse_address

_NAME_EXAMPLES = """examples:
  cbfs name show
  cbfs name update --server cbfs://KEY@HOST:PORT    move to another home server
  cbfs name rotate --stolen                         somebody may have a copy of the account
  cbfs name rotate --recovery usb-stick/recovery    new keys, and one for the worst case
  cbfs name owner-key --move-to usb-stick/owner     who gets the account does not get the name
  cbfs name freeze usb-stick/freeze                 for a lost computer
Unmount the account first; mounted again, it tells your contacts by itself.
"""


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs name`` takes."""
    parser.description = "What the owner of a name does with it in the name directory."
    parser.epilog = _NAME_EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what the directory has")
    show.set_defaults(run=_show)
    update = actions.add_parser("update", help="move to another home server")
    update.add_argument("--server", required=True, metavar="URL", help="cbfs://KEY@HOST:PORT")
    add_server_invite(update)
    update.set_defaults(run=_update)
    renew = actions.add_parser("renew", help="renew the name, to keep it for longer")
    renew.set_defaults(run=_renew)
    cancel = actions.add_parser("cancel", help="stop a recovery that you did not begin")
    cancel.set_defaults(run=_cancel)
    release = actions.add_parser("release", help="give the name up, for good")
    release.add_argument("name", metavar="NAME", help="the name, to be sure")
    release.set_defaults(run=_release)
    others = *_add_new_keys(actions), _add_freeze(actions)
    for action in (update, cancel, release, *others):
        _add_owner_key(action)
    for action in (show, update, renew, cancel, release, *others, _add_recover(actions)):
        add_account(action)
        add_old_passphrase(action)
        add_network(action)


_Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_new_keys(actions: _Actions) -> tuple[argparse.ArgumentParser, ...]:
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
    add_server_invite(rotate)
    rotate.set_defaults(run=_rotate)
    owner_key = actions.add_parser(
        "owner-key", help="make a new owner key that is kept apart from the account"
    )
    owner_key.add_argument(
        "--move-to",
        required=True,
        type=Path,
        metavar="FILE",
        help="a new file (0600) for its 24 words, somewhere else",
    )
    owner_key.set_defaults(run=_owner_key)
    return rotate, owner_key


def _add_freeze(actions: _Actions) -> argparse.ArgumentParser:
    freeze = actions.add_parser(
        "freeze",
        help="freeze the name with the account's agent key; or write a certificate to be kept for a"
        " lost computer, or use it",
    )
    freeze.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="where the certificate is kept (0600)",
    )
    freeze.add_argument(
        "--names",
        type=Path,
        metavar="POLICYFILE",
        help="use it: freeze the name at this directory, from any computer, without the account",
    )
    freeze.set_defaults(run=_freeze, usage=freeze.error)
    return freeze


def _add_recover(actions: _Actions) -> argparse.ArgumentParser:
    recover = actions.add_parser(
        "recover",
        help="recover your name by its recovery key, or its owner key, into a new account",
    )
    recover.add_argument("name", metavar="NAME")
    recover.add_argument(
        "--recovery", type=Path, metavar="FILE", help="the recovery key (default: the owner key)"
    )
    recover.add_argument("--server", required=True, metavar="URL", help="cbfs://KEY@HOST:PORT")
    recover.add_argument("--names", required=True, type=Path, metavar="POLICYFILE")
    _add_owner_key(
        recover, "the file of the owner key; with --recovery a new file, for the new owner key"
    )
    add_server_invite(recover)
    recover.set_defaults(run=_recover)
    return recover


def _add_owner_key(
    parser: argparse.ArgumentParser,
    what: str = "the file of the owner key, when it is not in the account",
) -> None:
    parser.add_argument(
        "--owner-key", type=Path, metavar="FILE", help=f"{what} (default: ask for its words)"
    )


def _owner(options: argparse.Namespace) -> Owner:
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    key = OwnerKey(getattr(options, "owner_key", None))
    invite = absolute(getattr(options, "server_invite", None))
    return Owner(options.account.absolute(), network_options(options), say, unlock, key, invite)


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


def _owner_key(options: argparse.Namespace) -> int:
    name = _owner(options).take_out(options.move_to.absolute())
    tell_kept(options.move_to, name)
    print("A certificate of before (cbfs name freeze FILE) counts no more: write a new one.")
    return 0


def _freeze(options: argparse.Namespace) -> int:
    if options.file is None and options.names is None:
        name = _owner(options).suspend()
        print(f"{name} is frozen: your contacts send nothing to it, and nobody can change it")
        print("without your owner key. That frees it: cbfs name rotate, with --stolen if others")
        print("may have a copy of the account.")
    elif options.file is None:
        options.usage("name the file of the certificate that is to be used")
    elif options.names is None:
        _owner(options).certify(options.file.absolute())
        print(f"{options.file} freezes the name when it is used: keep it apart from the account.")
        print("Write a new one after each rotate and each owner-key.")
    else:
        name = _owner(options).freeze(options.names, options.file)
        print(
            f"{name} is frozen: its keys can change nothing any more. Recover it: cbfs name recover"
        )
    return 0


def _recover(options: argparse.Namespace) -> int:
    name, server = typed_name(options.name), parse_address(options.server)
    if options.recovery is None:
        _owner(options).take_back(name, server, options.names)
        due = 0
    else:
        key = absolute(options.owner_key)
        due = _owner(options).recover(name, server, options.names, options.recovery, key)
    if due:
        when = f"{moment(due * 1_000):%Y-%m-%d %H:%M} UTC"
        print(f"The recovery of {name} is under way. Run the same command after {when}.")
    else:
        tell_ready(name, options.account.absolute(), options, "is yours again")
        if options.recovery and options.owner_key:
            tell_kept(options.owner_key, name)
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
