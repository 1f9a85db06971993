"""The command line of sendmail, as programs write it."""

import pytest

from cbfs.commands.sendmail.options import Exit, NotSent, SendmailOptions, parse


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bob", SendmailOptions(("bob",))),
        ("-t", SendmailOptions(from_headers=True)),
        ("-t -oi", SendmailOptions(from_headers=True, dot_ends=False)),
        ("-ti", SendmailOptions(from_headers=True, dot_ends=False)),
        ("-i bob carol", SendmailOptions(("bob", "carol"), dot_ends=False)),
        ("-oi -f alice bob", SendmailOptions(("bob",), dot_ends=False)),
        ("-o i bob", SendmailOptions(("bob",), dot_ends=False)),
        ("-OIgnoreDots bob", SendmailOptions(("bob",), dot_ends=False)),
        ("-oem -oi -- bob", SendmailOptions(("bob",), dot_ends=False)),
        ("-v -falice@host -Fname -rroot bob", SendmailOptions(("bob",), verbose=True)),
        ("-i -FCronDaemon -B8BITMIME -oem bob", SendmailOptions(("bob",), dot_ends=False)),
        ("-bm -em -G -U -N never -R hdrs -V x -h 3 bob", SendmailOptions(("bob",))),
        ("--account=/a bob", SendmailOptions(("bob",), account="/a")),
        ("--account /a -t", SendmailOptions(from_headers=True, account="/a")),
        ("-- -x", SendmailOptions(("-x",))),
        ("bob -t", SendmailOptions(("bob", "-t"))),
        ("--help", SendmailOptions(help=True)),
    ],
)
def test_what_programs_say_is_understood(line: str, expected: SendmailOptions) -> None:
    assert parse(line.split()) == expected


@pytest.mark.parametrize(
    "line",
    ["-bs", "-bd", "-bp", "-bi", "-bt", "-bv", "-bx", "-b", "-q", "-q5m", "-f", "-o", "-z",
     "--what", "--account", "-k bob"],
)  # fmt: skip
def test_what_is_not_about_a_message_is_refused(line: str) -> None:
    with pytest.raises(NotSent) as caught:
        parse(line.split())
    assert caught.value.code == Exit.USAGE
    assert caught.value.hint


def test_exit_codes_are_those_of_sysexits() -> None:
    codes = {each.name: int(each) for each in Exit}
    assert codes == {
        "OK": 0, "USAGE": 64, "DATAERR": 65, "NOINPUT": 66, "NOUSER": 67, "UNAVAILABLE": 69,
        "TEMPFAIL": 75, "CONFIG": 78,
    }  # fmt: skip


def test_an_empty_value_is_none_of_ours() -> None:
    assert parse(["-o", "", "bob"]) == SendmailOptions(("bob",))
