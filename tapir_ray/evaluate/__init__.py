"""Evaluation suites of a student. Each suite is one file with its items and its scoring."""
