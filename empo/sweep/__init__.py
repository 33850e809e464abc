"""A grid of recipe runs that ends in one report: recipes/sweep.py."""
