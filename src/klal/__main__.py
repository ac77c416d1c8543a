"""`python -m klal`: the same as the command `klal`."""

from klal.cli import main

main()
