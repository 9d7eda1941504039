"""Grids found by a search: over a teacher's trajectories, over error bounds. `core.build_grid` calls them by name."""
