"""The commands of ``cbfs-names`` beside serving: keys and terms of a directory, and its changes of
configuration. In come command lines; out go files and lines for the operator."""
