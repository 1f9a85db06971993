"""Onion services of servers: published, kept, refused. Over real tor processes."""

import argparse
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

import cbfs_host.onion_service
from cbfs.network.dial import DialError
from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.private_network import PrivateTorNetwork
from cbfs_common.onion import PORT, make_service_key
from cbfs_host.listening import Place
from cbfs_host.onion import (
    SETTINGS,
    Onion,
    OnionError,
    chosen,
    load_clients,
    load_key,
)
from cbfs_host.onion_service import published
from cbfs_host.settings import add_settings, given
from tests.support.tornet import (
    HASHED,
    PATIENCE,
    SystemTor,
    dial,
    echo_server,
    lone_tor,
    talk,
    tor_of,
)

pytestmark = pytest.mark.tor


def test_an_onion_service_without_tor(tmp_path: Path) -> None:
    async def main(control: str) -> None:
        async with published(
            Onion(make_service_key(os.urandom), (), control), Place("127.0.0.1", 1)
        ):
            pass

    with pytest.raises(OnionError, match="no tor answers") as caught:
        trio.run(main, f"{tmp_path}/none")
    assert caught.value.hint
    directory = tmp_path / "system"
    with lone_tor(directory, HASHED), pytest.raises(OnionError, match="does not let us in"):
        trio.run(main, f"{directory}/control")


def test_an_onion_service_comes_back_with_its_tor(
    tor_network: PrivateTorNetwork,
    system_tor: SystemTor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cbfs_host.onion_service, "BACKOFF_FIRST", 0.1)
    onion = Onion(load_key(tmp_path / "key", os.urandom), (), system_tor.control)

    async def main() -> None:
        options = TorOptions(control=tor_network.control("client"))
        async with (
            echo_server() as port,
            published(onion, Place("127.0.0.1", port)) as host,
            tor_of(options, tmp_path / "tor") as (tor, _),
        ):
            assert caplog.text == ""  # proof of work was not refused
            assert host == onion.key.host
            async with await dial(tor, host, PORT, b"home:1") as stream:
                await talk(stream)
            system_tor.stop()
            await trio.to_thread.run_sync(system_tor.start)
            with trio.fail_after(PATIENCE):
                while True:
                    try:
                        async with await dial(tor, host, PORT, b"home:1") as stream:
                            await talk(stream)
                        break
                    except DialError:
                        continue

    with caplog.at_level("INFO"):
        trio.run(main)
    assert "published again" in caplog.text
    assert onion.key.host not in caplog.text


def test_options_of_an_onion_service(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, SETTINGS)

    def choose(*words: str) -> Onion | None:
        values = given(parser.parse_args(words), SETTINGS).values()
        return chosen(SimpleNamespace(**values), tmp_path, os.urandom)

    assert choose() is None
    onion = choose("--onion")
    assert onion is not None
    assert onion == choose("--onion", "--tor-control", "/run/tor/control")
    for wrong in (("--onion-clients", "x"), ("--onion", "--tor-control", "localhost:9051")):
        with pytest.raises(OnionError) as caught:
            choose(*wrong)
        assert caught.value.hint


def test_tor_understands_the_example(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    example = Path(__file__).parents[2] / "server" / "torrc.example"
    text = example.read_text().replace("/var/lib/tor", str(tmp_path))
    (tmp_path / "torrc").write_text(f"DataDirectory {tmp_path}/data\nSocksPort 0\n{text}")
    command = ["tor", "-f", str(tmp_path / "torrc"), "--verify-config"]
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_files_of_an_onion_service(tmp_path: Path) -> None:
    path = tmp_path / "onion_key"
    key = load_key(path, os.urandom)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, os.urandom) == key
    path.write_text("something else")
    with pytest.raises(OnionError, match="no key of an onion service") as caught:
        load_key(path, os.urandom)
    assert caught.value.hint
    with pytest.raises(OnionError, match="cannot use"):
        load_key(tmp_path / "none" / "key", os.urandom)
    with pytest.raises(OnionError, match="cannot read"):
        load_clients(tmp_path / "none")
    path.write_text("alice\n")
    with pytest.raises(OnionError, match="line 1"):
        load_clients(path)
