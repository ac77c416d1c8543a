# While even one piece is not here, nobody is whole, and everybody can say
# what is missing, whose it is and who has it.             (W10 W19 W26 W27)
space ana ben mira
bird ana gull 3
bird ben tern 2
bird mira needle 1
finish ana ben mira
sync ana ben
close ana 0
close ben 0
----
ana: not yet: mira not finished
ben: not yet: mira not finished

# mira's work comes by the ship, and what she wrote goes overboard.
ship mira
spill
ship ana ben
missing ana
missing ben
close ana 0
close ben 0
state ana ben
----
ana lacks 2 payloads of mira, held by mira
ben lacks 2 payloads of mira, held by mira
ana: not yet: mira missing payloads
ben: not yet: mira missing payloads
ana is behind
ben is behind

# Those who are ready cannot complete it among themselves.
sync ana ben
close ben 0
----
ben: not yet: mira missing payloads

# She alone has the needle, and that piece alone completes everyone.
meet ben mira
missing ben
close ben 0
----
ben lacks nothing
ben: epoch 0 is complete, complete, 3 rows

sync ana ben mira
close ana 0
close mira 0
rows ana
verify ana ben mira
----
ana: epoch 0 is closed, complete, 3 rows
mira: epoch 0 is closed, complete, 3 rows
ana: gull 3, needle 1, tern 2
ana: 1 certificates proven
ben: 1 certificates proven
mira: 1 certificates proven
