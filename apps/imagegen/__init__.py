"""Image generation with few-step solvers: the EDM benchmarks, from checkpoints to tables."""
