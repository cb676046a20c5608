"""Tests of the clients of the local API."""
