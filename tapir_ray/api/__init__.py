"""The package from Python: what `import tapir_ray` offers, a module a topic. Nothing is printed, results are returned.

`launch.py`, `opening.py`, `offline.py` and `students.py` do the work for these functions and for the command line.
"""
