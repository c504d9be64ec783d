"""Tables, figures and the HTML report of a run, made from the files in its working directory alone."""

from fedrecon.reporting.figures import (
    plot_classification,
    plot_reconstructions,
    plot_segmentations,
    plot_site_bars,
    plot_training,
)
from fedrecon.reporting.partition_plot import plot_partition, save_partition_plot
from fedrecon.reporting.report import Figure, Section, Table, write_report
from fedrecon.reporting.tables import format_table, metric_rows

__all__ = [
    "Figure",
    "Section",
    "Table",
    "format_table",
    "metric_rows",
    "plot_classification",
    "plot_partition",
    "plot_reconstructions",
    "plot_segmentations",
    "plot_site_bars",
    "plot_training",
    "save_partition_plot",
    "write_report",
]
