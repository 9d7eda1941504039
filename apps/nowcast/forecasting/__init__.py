"""From the last hour of radar to an ensemble nowcast of a whole domain.

`inputs` finds the latest frames by time in whatever holds radar frames and makes a `Scene` of them; `tiling` and
`ensemble` sample the frozen model over a domain larger than its patch; `extrapolation` is what is sent when there is no
time for it; `production` turns a scene into a file (see `apps.nowcast.output`), `watching` does so as frames land.
"""
