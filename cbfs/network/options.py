"""How the user wants servers to be reached: what command lines say of it.

Imports little, as every command has such options.
"""

from dataclasses import dataclass, field

from cbfs.network.tor.config import TorOptions


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How the user wants servers to be reached. ``no_tor``: by plain TCP, at loopback addresses
    only. Else ``tor`` says which tor."""

    no_tor: bool = False
    tor: TorOptions = field(default_factory=TorOptions)
