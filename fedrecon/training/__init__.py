"""One training: a task at the clients of a cohort, by a method of the catalog; resumable, with its scores.

`train_stage` is what every program calls. `FederationSettings` says how clients train together, `Budget` for
how long.
"""

from fedrecon.training import adaptation as adaptation
from fedrecon.training import finetuning as finetuning
from fedrecon.training import initial as initial
from fedrecon.training import local_steps as local_steps
from fedrecon.training import messages as messages
from fedrecon.training import model_files as model_files
from fedrecon.training import predictions as predictions
from fedrecon.training import secure as secure
from fedrecon.training import spending as spending
from fedrecon.training import stage as stage
from fedrecon.training import streams as streams
from fedrecon.training.budgets import Budget, Spending
from fedrecon.training.catalog_algorithms import (
    algorithms,
    check_method,
    comparator,
    fitted,
    fixed_flags,
    has_own_models,
    method,
    unprotected,
)
from fedrecon.training.components import schedule_name
from fedrecon.training.dotted import Dotted, split_dotted
from fedrecon.training.execution import Execution, choose_parallel
from fedrecon.training.faults import parse_faults
from fedrecon.training.federation_checks import check_federation
from fedrecon.training.federation_settings import NO_PRIVACY, FederationSettings
from fedrecon.training.growth import rounds_obstacle
from fedrecon.training.initial import initial_digest, initial_tasks, initial_variables
from fedrecon.training.interactive import run
from fedrecon.training.model_files import example_of, released_file
from fedrecon.training.named_tasks import TASKS, made_task, named_task
from fedrecon.training.options import (
    FlagError,
    Need,
    changed,
    check_needs,
    check_ranges,
    fields,
    flat,
    setting,
)
from fedrecon.training.own_files import load_methods, load_task, naming_the_line
from fedrecon.training.privacy_plan import PrivacyPlan, plan_privacy
from fedrecon.training.progress import Course, course
from fedrecon.training.results import (
    Cost,
    Results,
    is_finished,
    program_file,
    read_results,
    run_stage,
)
from fedrecon.training.scores import (
    Scores,
    as_json,
    cross_site_scores,
    foreign_scores,
    mean_score,
    site_scores,
    summary,
)
from fedrecon.training.stage import Stage, Trained, train_stage

__all__ = [
    "NO_PRIVACY",
    "TASKS",
    "Budget",
    "Cost",
    "Course",
    "Dotted",
    "Execution",
    "FederationSettings",
    "FlagError",
    "Need",
    "PrivacyPlan",
    "Results",
    "Scores",
    "Spending",
    "Stage",
    "Trained",
    "algorithms",
    "as_json",
    "changed",
    "check_federation",
    "check_method",
    "check_needs",
    "check_ranges",
    "choose_parallel",
    "comparator",
    "course",
    "cross_site_scores",
    "example_of",
    "fields",
    "fitted",
    "fixed_flags",
    "flat",
    "foreign_scores",
    "has_own_models",
    "initial_digest",
    "initial_tasks",
    "initial_variables",
    "is_finished",
    "load_methods",
    "load_task",
    "made_task",
    "mean_score",
    "method",
    "named_task",
    "naming_the_line",
    "parse_faults",
    "plan_privacy",
    "program_file",
    "read_results",
    "released_file",
    "rounds_obstacle",
    "run",
    "run_stage",
    "schedule_name",
    "setting",
    "site_scores",
    "split_dotted",
    "summary",
    "train_stage",
    "unprotected",
]
