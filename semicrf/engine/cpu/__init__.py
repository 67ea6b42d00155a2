"""The CPU engine: numba loops in float64, for models that factor and semirings that are log-sums with means."""
