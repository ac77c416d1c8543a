"""Bundles: one flat, immutable file that says what it contains and what it needs, and can be carried by anything.

Source:
    docs/spec/bundle.md, rules BDL-1 to BDL-7. Decision D19.
"""
