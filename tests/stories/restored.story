# When one is whole, through it everybody is brought back.         (W11 W20)
space ana ben mira
bird ana gull 3
bird ben tern 2
bird mira skua 4
finish mira
sync ana ben mira
finish ana ben
sync ana ben mira
close mira 0
----
mira: epoch 0 is closed, complete, 3 rows

# All files but the newest member's are destroyed. The keys are at home.
bird mira egg 1
destroy ana ben
join ana
join ben
join eve
sync mira ana ben eve
same ana ben mira eve
rows ana
rows eve
close ana 0
close eve 0
verify ana ben mira eve
----
ana ben mira eve: one root
ana: egg 1, gull 3, skua 4, tern 2
eve: egg 1, gull 3, skua 4, tern 2
ana: epoch 0 is closed, complete, 3 rows
eve: epoch 0 is closed, complete, 3 rows
ana: 1 certificates proven
ben: 1 certificates proven
mira: 1 certificates proven
eve: 1 certificates proven

# What comes back goes on.
bird ana owl 5
sync mira ana ben eve
rows eve
state ana
----
eve: egg 1, gull 3, owl 5, skua 4, tern 2
ana is stable
