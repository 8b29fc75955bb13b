"""Evaluation suites of a student. A suite is one file: its items, and how answers are scored."""
