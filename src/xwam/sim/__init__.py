"""Simulators behind one protocol, and what is done with them."""
