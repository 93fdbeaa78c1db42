"""`darkq top`: shows the state of the system, and repeats.

reading   one reading of the system, and rates per second
tables    a reading as tables that fit the size of a terminal, with a history as bars
panel     the content of the screen, and the same as plain text
screen    takes over the terminal, and restores it
watch     reads until Ctrl-C
"""
