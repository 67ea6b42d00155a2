"""Pictures of segmentations and distributions, with matplotlib (``pip install semicrf[plots]``).

| function | shows |
|---|---|
| ``segments``, ``ribbons`` | one segmentation as a ribbon; several below one another: truth, best, samples |
| ``posterior`` | of one sequence: boundaries, labels, best segmentation, truth, samples |
| ``heatmap`` | the probability of each label at each position, with the boundaries of a segmentation |
| ``durations`` | tables of durations beside each other: prior, learned, posterior |
| ``transitions`` | what follows what, as a graph |
| ``reliability`` | whether probabilities mean what they say |

Labels have the colours of `semicrf.terminal.PALETTE`, which suit every kind of colour vision; after eight, hatched.
Lines differ in dashes and markers too, and shades are ordered by lightness, so that a picture survives a grey printer.
Text and background follow matplotlib's style, a dark one too.
"""

from semicrf.plots.curves import durations, reliability
from semicrf.plots.graph import transitions
from semicrf.plots.heat import heatmap
from semicrf.plots.ribbons import posterior, ribbons, segments

__all__ = ["durations", "heatmap", "posterior", "reliability", "ribbons", "segments", "transitions"]
