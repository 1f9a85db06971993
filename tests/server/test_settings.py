"""The settings of both servers: options, a file in TOML, and SIGHUP."""

import re
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest
import tomli_w
import trio
from hypothesis import given
from hypothesis import strategies as st

from cbfs.network.link import request
from cbfs_common.errors import DecodeError
from cbfs_common.wire.requests import GetLimits
from cbfs_host.complaints import HostError
from cbfs_host.listening import Place
from cbfs_host.settings import FILE_MAX, Kind, ServerSetting, Several, line_of, load
from cbfs_names.commands.settings import LIMITS as NAMES_LIMITS
from cbfs_names.commands.settings import SETTINGS as NAMES_SETTINGS
from cbfs_names.limits import DirectoryLimits as NamesLimits
from cbfs_server.limits import Limits
from cbfs_server.settings import LIMITS, SETTINGS, limits_of, options_of, parse
from tests.server.test_server_processes import PROGRAMS, connects, failure, running, said_in_words
from tests.support.serving import link_to, running_server

BOTH = {"cbfs_server": SETTINGS, "cbfs_names": NAMES_SETTINGS}


def file_of(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_gives_values_and_options_hold_over_it(tmp_path: Path) -> None:
    text = """
# a comment
data = "/var/lib/cbfs-server"
listen = [
    "127.0.0.1:1984",
    "[::1]:1984",   # both
]
mailbox = 1_000
store-max = "20G"
verbose = true
log-format = "json"
"""
    path = file_of(tmp_path, text)
    _, values = parse(["--settings", str(path), "--mailbox", "7", "--no-verbose"])
    options, limits = options_of(values), limits_of(values)
    assert options.data == Path("/var/lib/cbfs-server")
    assert options.listen == (Place("127.0.0.1", 1984), Place("::1", 1984))
    assert (options.verbose, options.log_format) == (False, "json")
    assert limits == Limits(mailbox=7, store_max=20 << 30)
    _, values = parse(["--settings", str(path), "--listen", "[::1]:7"])
    assert options_of(values).listen == (Place("::1", 7),)
    assert limits_of(parse(["--data", "x"])[1]) == Limits()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("mailbox = 1\n\nmailbocks = 2", 3, "did you mean mailbox?"),
        ("store_max = '20G'", 1, "did you mean store-max?"),
        ("# mailbox = 1\n mailbox = 'many'", 2, "a number from 1"),
        ("verbose = 1", 1, "true or false"),
        ("mailbox = true", 1, "a number from 1"),
        ("mailbox = 0", 1, "a number from 1"),
        ("mailbox = -1", 1, "a number from 1"),
        ("mailbox = 1.0", 1, "a number from 1"),
        ("store-max = '1M'", 1, "from 64M"),
        ("store-max = 20", 1, 'like "20G"'),
        ("verbose = true\nlisten = [\n '127.0.0.1:1',\n 'x']", 2, "127.0.0.1:7701"),
        ("listen = '127.0.0.1:1984'", 1, "a list of"),
        ("listen = [1]", 1, "a list of"),
        ("listen = ['127.0.0.1:99999']", 1, "ports are"),
        ("log = ''", 1, "leave it out"),
        ("log-format = 'xml'", 1, "text, json"),
        ("verbose = true\n[limits]\nmailbox = 1", 2, "lists them"),
        ("[[mailbox]]\na = 1", 1, "a number from 1"),
        ("'mailbox' = 2024-01-01", 1, "a number from 1"),
        ("mailbox.size = 1", 1, "a number from 1"),
        ('log = """\nmailbox = 1\n"""\nmailbox = "x"', 4, "a number from 1"),
        ("verbose = true\nmailbox 1", 2, "quotes"),
        ("mailbox = 1\nmailbox = 1", 2, "quotes"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(
    text: str, line: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match=f"line {line}[,:)]") as caught:
        load(file_of(tmp_path, text), SETTINGS)
    assert words in caught.value.hint


def test_what_is_no_file_of_settings(tmp_path: Path) -> None:
    for wrong in tmp_path, tmp_path / "none", Path("/dev/zero"), Path("/dev/null/x"):
        with pytest.raises(HostError) as caught:
            load(wrong, SETTINGS)
        assert caught.value.hint
    for text in (
        b"\xff",
        b"# " + b"x" * FILE_MAX,
        b"mailbox = " + b"1" * 5_000,
        b"a = " + b"[" * 9_999,
    ):
        with pytest.raises(HostError):
            load(file_of(tmp_path, text), SETTINGS)


values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
names = st.sampled_from([each.name for each in SETTINGS]) | st.text()


tables = st.dictionaries(names, values).map(lambda table: tomli_w.dumps(table).encode())


@given(data=st.binary(max_size=300) | tables)
def test_any_file_gives_values_or_an_error_of_ours(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    try:
        found = load(path, SETTINGS)
    except HostError as error:
        assert str(path) in str(error)
        assert error.hint
    else:
        assert set(found) <= {each.field for each in SETTINGS}


@given(st.text(), st.integers())
def test_a_kind_reads_a_text_or_raises_decode_error(text: str, number: int) -> None:
    for each in (*SETTINGS, *NAMES_SETTINGS):
        for given_text in (text, str(number), f"{number}G", f"{text}:{number}"):
            if each.kind.type is not bool:
                try:
                    each.kind.read(given_text)
                except DecodeError as error:
                    assert error.hint


@given(st.lists(st.sampled_from(["a = 1", "b = [", "]", '"""', "c = '''", "#", "key = 2", ""])))
def test_the_line_of_a_key_is_where_it_stands(lines: list[str]) -> None:
    """If what is found is TOML at all."""
    try:
        found = tomllib.loads("\n".join(lines))
    except ValueError:
        return
    if "key" in found:
        assert lines[line_of("\n".join(lines), "key") - 1] == "key = 2"


@pytest.mark.parametrize("settings", BOTH.values())
def test_each_setting_is_known_once(settings: tuple[ServerSetting, ...]) -> None:
    assert len({each.name for each in settings}) == len(settings)
    assert all(isinstance(each.kind, Kind | Several) for each in settings)


@pytest.mark.parametrize("program", BOTH)
def test_the_manual_has_every_setting(program: str) -> None:
    path = Path(__file__).parents[2] / "man" / f"{program.replace('_', '-')}.8"
    known = re.findall(r"^\.B[IR]? \\-\\-([a-z\\-]+)", path.read_text(), re.MULTILINE)
    words = {each.replace("\\", "").rstrip("-") for each in known}
    assert {each.name for each in BOTH[program]} <= words


def test_every_limit_is_a_setting() -> None:
    for limits, table in (Limits(), LIMITS), (NamesLimits(), NAMES_LIMITS):
        assert {each.field for each in table} == set(limits.__slots__)
        assert all(each.live for each in table)
        for each in table:
            assert each.default in (None, getattr(limits, each.field))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_server_goes_by_its_file_and_refuses_a_wrong_one(program: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, "connections = 'x'\n")
    status, said = failure(program, tmp_path / "data", "--settings", str(path))
    assert (status, said_in_words(said)) == (1, True)
    assert f"{path}, line 1, connections" in said[0]
    log = tmp_path / "log"
    file_of(tmp_path, f"log = '{log}'\nlog-format = 'json'\n")
    with running(program, tmp_path / "data", "--settings", str(path)) as (process, url):
        connects(program, url)
        assert log.exists()
        assert process.stderr is not None


def told(process: subprocess.Popen[str]) -> str:
    """The next line of its log."""
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.mark.parametrize("program", PROGRAMS)
def test_sighup_reads_the_file_again(program: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, "connections = 100\n")
    with running(program, tmp_path / "data", "--settings", str(path)) as (process, url):
        path.write_text("connections = 101\nverbose = true\n")
        assert "settings have changed: verbose, connections" in told(process)
        path.write_text("connections = 102\nverbose = 1\n")
        line = told(process)
        assert " error: the settings stay as they were: " in line
        assert "line 2, verbose" in line
        assert "true or false" in line
        path.write_text("connections = 101\nlog = '/nowhere/log'\nverbose = true\n")
        assert "count when it is started again: log\n" in told(process)
        path.unlink()
        assert "cannot be read" in told(process)
        path.write_text("log-format = 'json'\nconnections = 101\nverbose = true\n")
        assert told(process).startswith('{"time": "')
        connects(program, url)
        process.terminate()
        assert process.wait(60) == 0


def test_a_limit_counts_as_soon_as_it_is_read(tmp_path: Path) -> None:
    async def mailbox() -> int:
        async with link_to(server) as link:
            limits = await request(link, GetLimits())
            assert limits.retention == 3 * 86_400
            return limits.mailbox

    path = file_of(tmp_path, "mailbox = 7\nretention-days = 3\n")
    with running_server(tmp_path / "data", "--settings", str(path)) as server:
        assert trio.run(mailbox) == 7
        path.write_text("mailbox = 8\nretention-days = 3\n")
        server.process.send_signal(signal.SIGHUP)
        while "settings have changed: mailbox" not in server.log:
            server.process.poll()
        assert trio.run(mailbox) == 8
