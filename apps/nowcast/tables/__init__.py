"""The tables and figures of nowcasting that can be made here, and published numbers beside ours.

published     what the papers report
beside        our scores beside them, and whether differences of methods agree
sharpness     scores and spectra over network evaluations, as series to draw
ingredients   stores, models, trained solvers, packages: what is here, and how to get it
own, papers   the tables; `listing` gathers them for `evaluate --list`
"""
