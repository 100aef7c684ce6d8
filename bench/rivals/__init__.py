"""Competitors in processes and environments of their own, for `python -m bench field`.

`worker` runs in those environments, where only torch and this package are sure to be: it, `units`
and `adapters` import nothing else at their top.
"""
