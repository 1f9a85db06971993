"""The account directory: made, found to be ours alone, locked and opened; the passphrase or keyring
that protects its root key, the settings that ``config.toml`` may hold, and the spool, in which
messages wait for a mount.

In comes a path and a passphrase; out go an open account with its keys, and settings that have been
checked. Stands on storage, and on what brings accounts of long ago over. Entered by receiving, the
engine, the tree and commands, and by interface and context; the other rooms are handed what they
need of it.
"""

FACE = (
    "account",
    "awaited",
    "bounds",
    "claim",
    "formats",
    "leaving",
    "passphrase",
    "passphrase_source",
    "pasted",
    "place",
    "settings",
    "spool",
)
