"""Matrix products of a tile, one file for each way that instruction sets offer."""
