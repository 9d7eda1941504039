"""A report of an evaluation: one HTML file that needs nothing else, for a phone, a desk and paper, in light and dark.

page         the file: sections put together, style and script, what may run and load
tables       scores with intervals, paired differences, parts of the events
lead_times, cost, ensembles, spectra   which charts there are
chart, axes  a chart as SVG, with its numbers as a table
film         context, truth and members, frame by frame
provenance   what the numbers were made of
html         elements whose text is escaped
"""

from apps.nowcast.reporting.page import write_report

__all__ = ["write_report"]
