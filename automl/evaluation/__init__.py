"""Metrics with intervals, operating points, constraint checks, and the only timer."""
