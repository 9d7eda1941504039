"""Verification of nowcasts: what is summed of each event, where the sums are kept, and the scores made of them.

    definitions   all scores with formula, range, best value and reference
    events        the statistics of one event
    exceedance, fractions, spectra, similarity   how they are computed; CRPS, ranks and counts are in `..metrics`
    store         statistics of events in a Zarr store, written event by event
    curves        scores by lead time and threshold, with intervals
    strata        parts of the events: by source, season, wetness, motion

Statistics of events are all that scores, intervals, parts of the events and comparisons with further methods need: no
forecast is run twice.
"""
