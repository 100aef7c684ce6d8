"""Differentiation of the operators, and the cheapest right path for a call."""
