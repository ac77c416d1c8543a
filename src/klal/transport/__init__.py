"""Floor 7: carriers. Real folders, later real sockets; each only implements a port."""
