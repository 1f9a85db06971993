"""ssh(1), which a mount on another machine reaches its hub by."""
