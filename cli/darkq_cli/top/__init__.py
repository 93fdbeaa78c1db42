"""`darkq top`: shows the state of the system, and repeats.

reading   one reading of the system, and rates per second
tables    a reading as tables that fit the size of a terminal, with a history as bars
screen    takes over the terminal, and restores it
watch     reads until Ctrl-C, and shows it on the screen or as plain text
"""
