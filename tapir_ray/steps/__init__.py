"""Steps of the methods. Each step reads tables of a run, streams them through transforms and publishes a table."""
