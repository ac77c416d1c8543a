"""Floor 2: decisions. Values in, a verdict out; no I/O, no clock, no dice."""
