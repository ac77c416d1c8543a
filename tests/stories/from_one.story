# All but one are lost before anybody closed the books: the one closes them, and brings everybody back.   (W11 W20 S47)
space ana ben mira
bird ana gull 3
bird ben tern 2
sync ana ben mira
finish ana ben mira
sync ana mira ben
destroy ana ben
close mira 0
----
mira: epoch 0 is closed, complete, 2 rows

# With their keys the others are the same members, whole and byte for byte.
join ana
join ben
sync mira ana ben
same ana ben mira
close ana 0
close ben 0
rows ben
verify ana ben mira
state ana ben mira
----
ana ben mira: one root
ana: epoch 0 is closed, complete, 2 rows
ben: epoch 0 is closed, complete, 2 rows
ben: gull 3, tern 2
ana: 1 certificates proven
ben: 1 certificates proven
mira: 1 certificates proven
ana is closed
ben is closed
mira is closed
