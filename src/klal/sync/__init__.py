"""Floor 3: sessions. Bytes in, events and bytes out; no I/O, no clock, no dice."""
