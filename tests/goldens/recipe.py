"""How golden weights and inputs are drawn: the library's own recipe, under the name that the tests use."""

from xwam.check.golden_recipe import generator, normal, relative_error, uniform, weight, weights

__all__ = ["generator", "normal", "relative_error", "uniform", "weight", "weights"]
