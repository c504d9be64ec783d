"""The data of several clients: stacking, splitting, partitions, and the examples that networks get."""

from fedrecon.data.clients.arrays import cohort_from_arrays
from fedrecon.data.clients.client_data import ClientData, pool, select_clients, split_patients, stack_clients
from fedrecon.data.clients.cohort import FRACTIONS, PARTS, Cohort, stack_parts, stack_volumes
from fedrecon.data.clients.examples import (
    center_columns,
    common_entries,
    mri_examples,
    resize_kspace,
    to_native,
)
from fedrecon.data.clients.feature_shift import FeatureShift, draw_feature_shifts, shift_features
from fedrecon.data.clients.partition import (
    case_type_partition,
    dirichlet_partition,
    label_counts,
    partition_examples,
    quantity_partition,
    shard_partition,
    site_partition,
)
from fedrecon.data.clients.tiles import Tiles, heat_map, tile_slide
from fedrecon.data.clients.undersampling import mask_key, undersampled_examples

__all__ = [
    "FRACTIONS",
    "PARTS",
    "ClientData",
    "Cohort",
    "FeatureShift",
    "Tiles",
    "case_type_partition",
    "center_columns",
    "cohort_from_arrays",
    "common_entries",
    "dirichlet_partition",
    "draw_feature_shifts",
    "heat_map",
    "label_counts",
    "mask_key",
    "mri_examples",
    "partition_examples",
    "pool",
    "quantity_partition",
    "resize_kspace",
    "select_clients",
    "shard_partition",
    "shift_features",
    "site_partition",
    "split_patients",
    "stack_clients",
    "stack_parts",
    "stack_volumes",
    "tile_slide",
    "to_native",
    "undersampled_examples",
]
