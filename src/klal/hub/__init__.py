"""A hub: a replica that is easy to reach, and nothing more.

Needs the extra `hub`. What it may do and what it cannot is in docs/how-to/run-a-hub.md.
"""
