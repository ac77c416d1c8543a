"""Fleets in one process, from one seed: the rules as plain sets, and as arrays for 600,000 replicas.

`source` needs nothing but Python and is the oracle that tests hold the engine against; `fleet` needs numpy.
"""
