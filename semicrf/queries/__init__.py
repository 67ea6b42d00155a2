"""What one can ask of a distribution over segmentations, one theme to a module.

The functions are the members of `semicrf.SemiCRFDistribution`, which names them in its body; there is no other way in.
"""
