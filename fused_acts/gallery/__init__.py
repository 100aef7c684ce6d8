"""Pictures and figures of every activation and gated unit, computed by the library itself.

`python -m fused_acts gallery` writes them as a page; drawing needs matplotlib.
"""
