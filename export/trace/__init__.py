"""From a network to one graph of core operators, forward and adjoint."""
