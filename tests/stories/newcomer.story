# He buys his world in one hour: a newcomer reads the rows of the newest close
# while history is still on its way, and never passes for whole.   (W21 W7)
# One makes them ready for all who come, once.                     (W22)
space ana ben
bird ana gull 3
bird ben tern 2
finish ana ben
sync ana ben
snapshot ana
bird ana gull 4
join dan
ask dan ana
reads dan
state dan
----
ana has the rows of epoch 0 to give: 2
dan, a part, reads in its tables: nothing
dan, a part, reads in its snapshot: gull 3, tern 2
dan is behind

# He is a member already: what he writes is his own, in his own log.
bird dan skua 1
reads dan
----
dan, a part, reads in its tables: skua 1
dan, a part, reads in its snapshot: gull 3, tern 2

# When history is here his tables have it all, and the snapshot is gone.
meet dan ana
reads dan ana
state dan
----
dan, a whole, reads in its tables: gull 4, skua 1, tern 2
ana, a whole, reads in its tables: gull 4, tern 2
dan is whole
