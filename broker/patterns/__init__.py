"""Regular expressions of clients, matched in time linear in the text."""

from broker.patterns.matcher import Pattern
from broker.patterns.syntax import PatternError

__all__ = ["Pattern", "PatternError"]
