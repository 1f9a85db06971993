"""The edge to the network: sockets, what clients ask and get, messages and links between the
directory's own servers. In come bytes that anybody may have sent; out go checked values, and
answers. Stands on state. Every room but state may enter.
"""

FACE = ("pace", "peer_link", "peer_messages", "queries", "service", "sockets")
