"""A sequence cut into chunks: what a pair of them sees, in which order, and how much a worker holds of them.

It needs no Dask, so that a run is planned where Dask is not installed.
"""
