"""Tests of meshd.links."""
