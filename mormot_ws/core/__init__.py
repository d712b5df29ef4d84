"""RFC 6455 as values and bytes: this layer has no sockets, clocks or threads."""
