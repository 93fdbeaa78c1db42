"""The formats of inputs and outputs.

rows      a line of an input, read into a job: templates, names of fields, ids
table     CSV and TSV: rows of a table as lines of JSON
output    the lines to write, alone or joined with those of the input
"""
