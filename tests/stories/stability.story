# A change is stable once every member of the epoch has signed for it.
# Here mira goes quiet. Nothing may become stable until she signs again, no
# matter how often the other two agree with each other.            (STB-1 W6)
space ana ben mira
bird ana gull 3
stable ana
----
stable at ana: (nothing)

sync ana ben
sync ben ana
stable ana
who-has ana gull
state ana
----
stable at ana: (nothing)
gull: held by ana, ben; lacking: mira
ana is whole

# mira hears of the gull, and her receipt is what makes it stable.
sync mira ben
stable ben
stable mira
----
stable at ben: gull
stable at mira: gull

# ana has not met anybody since, so she cannot know it yet.
stable ana
----
stable at ana: (nothing)

sync ana mira
stable ana
----
stable at ana: gull
