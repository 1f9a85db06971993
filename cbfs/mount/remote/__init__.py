"""An account that is mounted on another machine: what the two say to each other, the daemon's side
of it, and the mount there, which works on while it is away."""
