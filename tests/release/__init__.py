"""The package as others get it: ``./run test package``."""
