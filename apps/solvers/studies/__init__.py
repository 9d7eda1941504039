"""The claims of the papers on learned coefficients, examined on exact fields: each study a function with seeds."""
