"""The dynamic programme: arcs, recurrence, reverse sweep, walk, and the torch operators that run them."""
