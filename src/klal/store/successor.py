"""A space that goes on from another: the tables and rows of the old one as the first change of the new.

Where fewer than half of the members are left, nothing in a space can be closed any more.
Whoever has it founds a new one, whose genesis names the old space, the root of what was
held of it and the newest certificate. That binds nobody; it says where the rows come from.

History, conflicts and rows that UNIQUE hides stay in the old file, which is not touched.

Source:
    Protocol spec section 9, rule MEM-11. Decision D15.
"""

from __future__ import annotations

from klal.model.acts import Predecessor
from klal.model.header import NO_CERTIFICATE
from klal.store.bulk import insert_many
from klal.store.file import unchecked
from klal.store.layout import quote
from klal.store.store import Store


def predecessor_of(old: Store) -> Predecessor:
    """Return how a genesis names the space that a file is of."""
    closed = old.applier.closed
    certificate = closed[-1].certificate_hash if closed else NO_CERTIFICATE
    return Predecessor(old.space_id, old.genesis.space_name, old.history.frontier().root(), certificate)


def carry_over(old: Store, new: Store) -> int:
    """Declare the old space's tables in a new one, and insert the rows that they show; return how many.

    All of it is committed together, or nothing. What broke a CHECK or FOREIGN KEY in the old space does so in the new.
    """
    count = 0
    with old.reading(), new.writing(durable=True), unchecked(new.connection):
        schema = old.schema_acts()
        new.writer.declare_acts(schema)
        if schema:
            new.append_acts(*schema)
        for table in sorted(old.catalog.by_id.values(), key=lambda table: table.name):
            names = [info.name for info in table.given]
            listed = ", ".join(map(quote, names))
            order = ", ".join(quote(info.name) for info in table.key)
            rows = old.connection.execute(f"SELECT {listed} FROM main.{quote(table.name)} ORDER BY {order}")
            twin = new.catalog.named(table.name)
            count += insert_many(new.connection, new.writer, twin, rows, names).row_count
    return count
