"""torrc lines, bridges, keys and addresses: what is refused before any tor sees it."""

import os
from pathlib import Path

import pytest

from cbfs.network.dial import NotAllowed
from cbfs.network.tor.config import (
    TorConfigError,
    TorOptions,
    bridge_lines,
    check_options,
    client_keys,
    own_lines,
    read_text,
)
from cbfs.network.tor.dial import check_host
from cbfs_common.errors import DecodeError
from cbfs_common.onion import (
    add_onion_command,
    decode_service_key,
    is_onion_host,
    make_service_key,
    parse_clients,
)

DUCK = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad"
"""A service of others, whose address is widely printed: a vector."""

CLIENT = "descriptor:x25519:" + "A" * 52


def test_own_lines_quote_paths(tmp_path: Path) -> None:
    lines = own_lines(TorOptions(), Path('/a "b"\\c\nd'), "/run/x")
    assert 'DataDirectory "/a \\"b\\"\\\\c\\nd/data"' in lines
    assert not any("\n" in line for line in lines)


def test_bridges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "lyrebird"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    fingerprint = "0" * 40
    lines = bridge_lines(
        [f"Bridge obfs4 192.0.2.1:443 {fingerprint} cert=x iat-mode=0", "192.0.2.2:443"], "FILE"
    )
    assert lines == [
        "UseBridges 1",
        f"ClientTransportPlugin obfs4 exec {program}",
        f"Bridge obfs4 192.0.2.1:443 {fingerprint} cert=x iat-mode=0",
        "Bridge 192.0.2.2:443",
    ]


@pytest.mark.parametrize(
    ("bridges", "words"),
    [
        ([], "no bridge"),
        (["carrier-pigeon 192.0.2.1:443"], "kind of bridge that cbfs does not know"),
        (["obfs4 192.0.2.1:443"], "need the program lyrebird"),
    ],
)
def test_bridges_that_cannot_be(
    bridges: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(TorConfigError, match=words) as caught:
        bridge_lines(bridges, "FILE")
    assert caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        TorOptions(control="localhost:9051"),
        TorOptions(control="9051"),
        TorOptions(control="/run/tor/control", bridges=Path("x")),
    ],
)
def test_options_without_meaning(options: TorOptions) -> None:
    with pytest.raises(TorConfigError) as caught:
        check_options(options)
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a\x00b", b"x" * 70_000])
def test_files_that_hold_no_text(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TorConfigError):
        read_text(path)
    with pytest.raises(TorConfigError, match="cannot read"):
        read_text(tmp_path / "none")


def test_client_keys(tmp_path: Path) -> None:
    assert client_keys(tmp_path / "none") == []
    (tmp_path / "work.auth_private").write_text(f"{DUCK}:{CLIENT}\n")
    (tmp_path / "note").write_text("not looked at")
    (key,) = client_keys(tmp_path)
    assert (key.service, key.key) == (DUCK, "A" * 43)
    (tmp_path / "bad.auth_private").write_text("secret words")
    with pytest.raises(TorConfigError) as caught:
        client_keys(tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host", [f"{DUCK}.onion", f"www.{DUCK}.onion", "example.org", "192.0.2.1", "2001:db8::1"]
)
def test_addresses(host: str) -> None:
    check_host(host)


NO_ADDRESS = ["", "x", "a b.org", "-a.org", "a..org", "a.org\n", "user@a.org", "bücher.example"]
NO_ADDRESS += ["expyuzz4wqqyqhjn.onion", f"e{DUCK[1:]}.onion", ".onion", "a" * 300 + ".org"]


@pytest.mark.parametrize("host", NO_ADDRESS)
def test_what_is_no_address(host: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        check_host(host)
    assert caught.value.hint


def test_onion_addresses() -> None:
    assert is_onion_host(f"{DUCK}.onion")
    assert not is_onion_host(DUCK)
    assert not is_onion_host(f"{DUCK[:-1]}a.onion")
    key = make_service_key(bytes)
    assert is_onion_host(key.host)
    assert decode_service_key(key.encode()) == key
    assert key.encode().split()[1] not in repr(key)


@pytest.mark.parametrize("text", ["", "cbfs-onion-key-1 AAAA", "x" * 100])
def test_what_is_no_service_key(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_service_key(text)


def test_clients_of_a_private_service() -> None:
    text = f"# friends\nalice {CLIENT}\n\n{CLIENT.replace('A', 'B').lower()}\nbob {CLIENT}\n"
    assert parse_clients(text) == ("A" * 52, "B" * 52)
    key = make_service_key(os.urandom)
    command = add_onion_command(key, "127.0.0.1:80", parse_clients(text), proof_of_work=True)
    assert "Flags=DiscardPK,V3Auth PoWDefensesEnabled=1 Port=1984,127.0.0.1:80" in command
    for bad, words in ((f"{CLIENT}A", "line 1"), ("", "0 clients"), ("# none", "0 clients")):
        with pytest.raises(DecodeError, match=words):
            parse_clients(bad)
