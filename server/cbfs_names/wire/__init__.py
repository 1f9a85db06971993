"""The edge to the network: sockets, what clients ask and get, links between the directory's own
servers. In come bytes that anybody may have sent; out go checked values, and answers. Entered by
processes."""
