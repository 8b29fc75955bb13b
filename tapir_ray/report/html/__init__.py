"""Report of a run as one HTML file: `tapir report RUN`, and `report.html` in the run's folder.

    text = report("runs/demo", methods)
    write(run, text)

`sections/` has a section a file, behind `section.py`; `page.py` puts them into the page; `charts.py` makes the charts.
"""
