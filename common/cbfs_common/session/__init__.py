"""Sessions between two devices. PROTOCOL.rst, Prekeys, Session and Envelope.

In come keys, randomness and envelopes; out go prekeys, sealed envelopes of one size, what they
said, and the state of a session as bytes. ``routes`` finds the session that an envelope is of. No
I/O; the client uses it, and the message server reads prekeys by it.
"""
