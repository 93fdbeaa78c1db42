"""`darkq batch`: reads prompts from a file, and writes their answers to another.

commands     options and help; list, show and cancel
start        starts a batch, or resumes one
formats      the formats of inputs and outputs
source       the lines of the input, and the check of all of them before the first is sent
plan         what a batch is to do; kept in its state
state        the checkpoint of a batch: one SQLite file beside the output
files        output files that only grow, and can be truncated to the checkpoint
ledger       writes each answer exactly once; finds the states of unfinished batches
feeding      sends lines to the batch
runner       sends and collects, and survives outages of Redis
progress     the progress bar, and the reasons for delays
results      copies results from Redis, and prints lines as they end
summary      the counts at the end
"""
