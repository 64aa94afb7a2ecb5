"""Suites that others wrote, run against our running broker. They are fetched when they are run, and never kept here."""
