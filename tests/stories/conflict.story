# Two who do not know of each other weigh one bird. One value stands, the
# other is kept with its author, and both see the same.            (S19 W15)
space ana ben
bird ana gull 3
sync ana ben
conflicts ben
----
ben sees no conflict

bird ana gull 4
bird ben gull 5
rows ana
rows ben
----
ana: gull 4
ben: gull 5

sync ana ben
conflicts ana
conflicts ben
same ana ben
----
gull.mass: 4 by ana stands against 5 by ben
gull.mass: 4 by ana stands against 5 by ben
ana ben: one root

# Whoever has seen both and weighs again has the last word.
bird ana gull 6
conflicts ana
----
ana sees no conflict

sync ana ben
rows ben
conflicts ben
----
ben: gull 6
ben sees no conflict

# A bird struck from the list here while it was weighed there comes back.
delete ana gull
bird ben gull 7
sync ana ben
rows ana
conflicts ana
same ana ben
----
ana: gull 7
gull.deletion: None by ben stands against None by ana
ana ben: one root
