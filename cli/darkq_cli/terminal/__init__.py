"""Input and output of every command. Nothing here imports another package of the command.

messages     remarks on stderr        output     text, JSON and tables on stdout
options      shared options           units      durations, times and sizes
job_options  those of one job
progress     progress bars            reading    prints the events of one job
interrupts   signals                  problems   errors as messages with hints
redis        the Redis that a command uses
local_darkai the local DarkAI of a running `darkq up`
short_ids    unique beginnings of ids
program      how this command is called in the user's shell

`darkq --help` loads these modules except `reading`, so they import `darkq` inside functions.
"""
