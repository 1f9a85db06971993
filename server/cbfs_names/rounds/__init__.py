"""The making of rounds: operations put in order, verified, locked and published, and evidence of
equivocation. In come blocks and a store; out go signed rounds or refusals. Stands on state, and on
wire for rounds that others have. Entered by processes.
"""

FACE = ("equivocation", "published", "sequencer", "verifier")
