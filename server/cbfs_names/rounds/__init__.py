"""The making of rounds: operations put in order, verified and published, and evidence of
equivocation. In come blocks and a store; out go signed rounds or refusals. Entered by processes."""
