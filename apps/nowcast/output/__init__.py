"""Nowcasts as files: one layout after the CF conventions, written as netCDF, Zarr or GeoTIFF, and pictures of it.

`layout` says which variables there are, `netcdf`, `zarr_store` and `geotiff` each write them a member at a time,
`formats` chooses one by the name of the output. A file appears whole at its place or not at all.
"""
