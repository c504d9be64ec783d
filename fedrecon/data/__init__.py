"""Data: the client dataset, file formats, simulated multi-site cohorts and loaders of real ones."""

from fedrecon.data.clients import ClientData, pool, select_clients, split_patients, stack_clients
from fedrecon.data.fastmri import FastMRIVolume, read_fastmri, write_fastmri
from fedrecon.data.hdf5 import DataError
from fedrecon.data.ismrmrd import EncodingSpace, ISMRMRDHeader, parse_ismrmrd_header

__all__ = [
    "ClientData",
    "DataError",
    "EncodingSpace",
    "FastMRIVolume",
    "ISMRMRDHeader",
    "parse_ismrmrd_header",
    "pool",
    "read_fastmri",
    "select_clients",
    "split_patients",
    "stack_clients",
    "write_fastmri",
]
