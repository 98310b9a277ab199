"""The one error that is not a plain `ValueError` to the commands: nothing fits. Knows nothing else."""

from __future__ import annotations


class Infeasible(ValueError):
    """No plan satisfies the limits; the message ends with the smallest change that would."""
