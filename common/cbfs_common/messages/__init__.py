"""The body of a message: text, folder, lifetime, conversation. Bytes to values and back, no I/O."""
