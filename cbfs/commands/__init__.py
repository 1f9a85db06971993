"""The programs ``cbfs`` and ``mount.cbfs``: a file for each command, and what they share: options,
what is mounted where, and how work is done online.

In come a command line and what is typed at a terminal; out go lines for a person, an exit code and,
for a mount, a process that goes on. May enter every other room; no other room enters.
"""

FACE = ()
