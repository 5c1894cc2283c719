"""The evaluation of detectors: measures with intervals, checks that raise, controls that measure,
the papers' numbers beside ours.
"""
