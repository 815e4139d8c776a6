"""Fakes, makers and checks that tests share; none of these modules holds a test."""
