"""Declared sets of runs that differ in stated factors only: planned, run, analysed, reported."""
