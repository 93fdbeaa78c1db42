"""`darkq batch`: many prompts from a file, their answers into another.

commands     options and help
source       the lines of the input, however it is packed
check        the whole input, before the first line is sent
plan         what a batch is to do, kept beside its output
state        how far it has come: one SQLite file beside the output
files        output files that only grow, and can be cut back
ledger       answers into files, each line once, whatever dies in between
runner       feeding, collecting, and leaving in a way that one can come back from
standing     how many jobs run, and what holds up the others
progress     how it is shown
registry     which unfinished batches of this machine have their state where
"""
