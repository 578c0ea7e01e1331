"""Calculators of energies and gradients, by name."""
