"""From nothing to an account among friends: the servers of one host, the lines by which it invites,
and what a newcomer's client does with one.

In come a directory and a line; out go running servers, a line, and an account. Only commands
enters.
"""

FACE = ()
