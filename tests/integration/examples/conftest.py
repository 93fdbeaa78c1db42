"""Fixtures: a real browser."""

from integration.board.conftest import complaints, open_board

__all__ = ["complaints", "open_board"]
