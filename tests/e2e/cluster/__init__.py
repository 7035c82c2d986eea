"""Clusters of real processes on one machine."""
