"""Tests of meshctl."""
