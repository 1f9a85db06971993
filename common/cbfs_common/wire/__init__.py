"""What a client and a server say to each other: the encrypted transport, and requests in it. No
I/O."""
