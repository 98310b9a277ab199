"""The errors that are not plain `ValueError`s to the commands: nothing fits, and nobody knows. Knows nothing else."""

from __future__ import annotations


class Infeasible(ValueError):
    """No plan satisfies the limits; the message ends with the smallest changes that would."""


class Undecided(RuntimeError):
    """The search ended with neither a split that fits nor a proof that there is none."""
