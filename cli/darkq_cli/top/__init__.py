"""`darkq top`: how everything stands, again and again.

reading   what is read at a time, and how much happens per second
history   how some numbers were of late, as lines of blocks
tables    a reading as tables that fit a terminal, whatever its size
panel     what is on the screen, and the same as plain text
screen    the terminal while they are shown: taken over, and given back
command   reads until Ctrl-C, whatever Redis does
"""
