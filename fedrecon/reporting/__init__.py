"""Tables, figures, comparisons of methods and the HTML report of a run; all from numbers."""

from fedrecon.reporting.comparison import (
    ComparisonRow,
    Interval,
    compare_values,
    latex_table,
    markdown_table,
    mean_interval,
    plot_comparison,
    save_comparison_plot,
    t_quantile,
    text_table,
    write_csv,
)
from fedrecon.reporting.diagnostic_figures import plot_agreement, plot_calibration, plot_site_boxes
from fedrecon.reporting.figures import (
    plot_classification,
    plot_patients,
    plot_privacy,
    plot_reconstructions,
    plot_segmentations,
    plot_site_scores,
    plot_training,
)
from fedrecon.reporting.partition_plot import plot_partition, save_partition_plot
from fedrecon.reporting.patients import (
    PatientMasks,
    auc,
    best_threshold,
    bootstrap_interval,
    patient_masks,
)
from fedrecon.reporting.report import Figure, Section, Table, write_report
from fedrecon.reporting.streams import plot_streams
from fedrecon.reporting.tables import format_table, metric_rows
from fedrecon.reporting.tradeoffs import TradeOff, TradeOffPoint, plot_trade_offs

__all__ = [
    "ComparisonRow",
    "Figure",
    "Interval",
    "PatientMasks",
    "Section",
    "Table",
    "TradeOff",
    "TradeOffPoint",
    "auc",
    "best_threshold",
    "bootstrap_interval",
    "compare_values",
    "format_table",
    "latex_table",
    "markdown_table",
    "mean_interval",
    "metric_rows",
    "patient_masks",
    "plot_agreement",
    "plot_calibration",
    "plot_classification",
    "plot_comparison",
    "plot_partition",
    "plot_patients",
    "plot_privacy",
    "plot_reconstructions",
    "plot_segmentations",
    "plot_site_boxes",
    "plot_site_scores",
    "plot_streams",
    "plot_trade_offs",
    "plot_training",
    "save_comparison_plot",
    "save_partition_plot",
    "t_quantile",
    "text_table",
    "write_csv",
    "write_report",
]
