"""Every activation and variant of the gallery, with its defaults and with other parameters."""

from fused_acts.gallery import entry

ENTRIES = {e.name: e for e in entry.entries()}
# Other parameters than the defaults, for all rows that have one.
OTHERS = {
    e.name: e
    for option, value in {
        "beta": 1.7,
        "alpha": 0.6,
        "slope": 0.4,
        "negative_slope": 0.2,
        "alpha_n": 1.4,
    }.items()
    for e in entry.entries([n for n in ENTRIES if option in entry.takes(ENTRIES[n].row)])
    for e in entry.entries([e.name], **{option: value})
}
LIMITED = entry.entries([n for n, e in ENTRIES.items() if "limit" in entry.takes(e.row)], limit=3.0)
EVERY = [*ENTRIES.values(), *OTHERS.values(), *LIMITED]
