"""The programs ``cbfs`` and ``mount.cbfs``: a file for each command, and the options that they
share.

In comes a command line and what is typed at a terminal; out go lines for a person, an exit code
and, for a mount, a process that goes on. May use every other room; no other room enters.
"""
