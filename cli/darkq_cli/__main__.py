"""`python -m darkq_cli`."""

from __future__ import annotations

from darkq_cli.main import main

main()
