"""Measures what the module costs, against the original's style and against PyTorch.

``python -m benchmarks`` runs everything, ``python -m benchmarks --help`` says what can be chosen.
"""
