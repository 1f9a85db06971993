"""How servers are reached: dialling, a link to one server, the pace of connections, and a server of
one's own. What goes through Tor is in ``cbfs.network.tor``.

In come addresses and requests; out go replies, pushes and errors in words. Stands on problems.
Entered by names, context, the engine's rooms and commands.
"""

FACE = (
    "access",
    "dial",
    "drop",
    "link",
    "options",
    "own_server",
    "pacing",
    "tor.config",
    "tor.private_network",
)
