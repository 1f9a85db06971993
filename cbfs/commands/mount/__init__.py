"""The program ``mount.cbfs``: its command line, the process that takes it, and the one that serves
until it is unmounted.

Who mounts waits for it: the process that takes the command line imports little, and the one that
serves an account reads in the rest, once it is known that there is one to be served. Only commands
enters.
"""
