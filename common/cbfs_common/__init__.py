"""What client, message server and name directory have in common: the protocol of PROTOCOL.rst,
without input and output.

In come bytes, keys, times and randomness from the caller; out go checked values, bytes to send, or
an error of ``errors``. Knows no clock, no file, no socket and no other package; all may import all
of it.
"""
