"""The standard plugins, found through the same entry-point group as anyone's. None imports another."""
