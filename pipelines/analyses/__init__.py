"""Analyses of pipelines: each imports heavy libraries, so each is imported by `headrace analyse` alone."""
