"""Sessions between two devices: prekeys, the ratchet, envelopes of one size and the routes that
they take. Values to bytes and back, with keys handed in; no I/O."""
