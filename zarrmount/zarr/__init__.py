"""What a store's own Zarr metadata tells: arrays, groups, data types, codecs, the hierarchy."""
