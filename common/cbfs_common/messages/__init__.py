"""What messages say: body, folder, lifetime and the id of a conversation. PROTOCOL.rst, Message.

In come bytes that a session has opened, or values to send; out go checked values, or the bytes of a
body. Stands on names of people and limits. No I/O; the client uses it.
"""
