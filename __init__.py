"""tpplan: measure a box of unequal devices, prove the best tensor-parallel split of a language model, run it."""

__version__ = "0.1.0"
