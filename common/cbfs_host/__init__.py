"""What the client, the message server and the name directory need of the machine that they run on:
files that a power loss leaves whole, directories that one process uses at a time, LMDB, tor's
control port, addresses to listen on, and how a program starts, ends, complains and logs.

One copy for all three programs. It imports ``cbfs_common`` alone; any room that touches the machine
may enter.
"""
