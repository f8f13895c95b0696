"""`emrrg bench`: benchmarks that print ratios."""

from __future__ import annotations


def register(subparsers) -> None:
    """Adds the parsers of this group."""
