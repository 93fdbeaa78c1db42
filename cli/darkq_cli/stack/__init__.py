"""The processes that `darkq up` and `darkq demo` start and stop.

up, demo     the two commands
stack        a local DarkAI and workers around one Redis
processes    one child process, and the pipe that ties it to its parent
"""
