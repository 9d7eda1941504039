"""What `apps.imagegen.scheduler` is made of: clocks, grids, query times, and the field of one step."""
