"""The steps of the method over a run: each reads tables, runs a pipeline of stages, publishes a table."""
