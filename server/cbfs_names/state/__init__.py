"""The state of the directory on disk: names, map, log, blocks, keys and the largest time that is
known. In come checked operations; out go transactions, heads and proofs. Every other room may
enter."""
