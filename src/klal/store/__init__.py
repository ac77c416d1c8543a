"""Floor 3: the only package that knows SQLite, and the folder that keeps keys.

Rooms, in the order a change passes through them:
`file` opens and guards, `declare` turns DDL into data and back, `capture` sees row
writes, `history` keeps logs, `rows` keeps what the merge must remember, `apply` merges
what others wrote, `epochs` closes, `intake` takes foreign bytes, `knowledge` answers
what is held, `checks` proves all of it. `store` joins them.
"""
