# Every file is destroyed, and a folder that they shared is left: it brings everybody back.              (W11 S46)
space ana ben mira
bird ana gull 3
bird ben tern 2
ship ana ben mira ana ben mira
finish ana ben mira
ship ana ben mira ana ben mira
close mira 0
destroy ana ben mira
join mira
ship mira
rows mira
missing mira
close mira 0
----
mira: epoch 0 is closed, complete, 2 rows
mira: gull 3, tern 2
mira lacks nothing
mira: epoch 0 is closed, complete, 2 rows

# One after another they come for it, and go on.
join ana
join ben
ship ana ben
bird ben owl 5
ship ben ana mira
same ana ben mira
rows ana
verify ana ben mira
----
ana ben mira: one root
ana: gull 3, owl 5, tern 2
ana: 1 certificates proven
ben: 1 certificates proven
mira: 1 certificates proven
