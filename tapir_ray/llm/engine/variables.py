"""Environment variables that workers set for the processes of their engines."""

THREADS = "TAPIR_ENGINE_THREADS"
"""Number of threads of an engine on CPUs; one per core if it is unset."""
