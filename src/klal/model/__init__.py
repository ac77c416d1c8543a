"""Floor 1: the things that are signed, hashed or sent. Plain values, no I/O, no clock, no dice."""
