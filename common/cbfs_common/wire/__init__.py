"""What a client and a server say to each other. PROTOCOL.rst, Transport and Message server.

In come bytes from a socket; out go events, requests, replies, and bytes to send: the encrypted
transport, which the name directory has as well, and the requests of the message server in it. No
I/O; client and both servers use it.
"""
