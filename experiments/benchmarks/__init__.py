"""Measurements: ratios against a peer, timed in the same run, interleaved."""
