"""Records of what waits: deliveries to each recipient, what is due in the next note to a peer,
envelopes that could not be read, messages of which not all parts are there, and blobs.

In comes a transaction of the store; out goes what is due. Entered as the room of messages is.
"""
