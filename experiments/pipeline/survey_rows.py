"""What a row of the review is to `experiments.survey`.

The review is Liu, Dai and Chen, *Review of Federated Learning in Medical Image Processing*, Computer Science
52(1), 2025. Its systems are in four tables; each is a `Row`, and a row of the catalog by its name there,
``survey_row``. `survey_tables` joins the files of rows, each of a table or a part of one; problems that they
are trained on are in `survey_problems`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

TABLES = ("applications", "algorithms", "frameworks", "privacy")


class Row(NamedTuple):
    """A row of the review.

    Attributes:
      name: there, the catalog's ``survey_row``.
      table: one of `TABLES`.
      reported: the review's figure and difference, on the paper's data.
      paper_data: what the paper's data were; the problems' titles say what stands in for them.
      shift: between clients that it was made for.
      problems: names of problems that it is trained on, the first one with the preset "smoke".
      purpose: what it is for, when to use it and when not; a plain paragraph.
      remark: what five seeds of the preset "small" showed, why we think so, and what else was tried.
      method: in the catalog where the name there is not that of the row in lower case.
      settings: of the row's training alone, options of the method among them.
      shared: of all trainings of the row, which then has a folder of its own.
      start: the way without labels (of `experiments.finetune --pretraining`) of the model that the row's
        training starts from; "" for random weights.
      starts: further rows: label -> such a way, then FedAvg.
      rivals: further rows: label -> settings, by "start" the way without labels that they start from, and by
        "on" the problems that they are trained on; all of the row's by default.
      smoke: settings in place of those of the row with the preset "smoke".
      turns: how many times the rounds its training has, where a single client trains in each.
      besides: what is measured besides scores, of `survey_besides.MEASURES`; "" for nothing.
      comparable: whether its score means what that of the others means; otherwise there is no difference.
    """

    name: str
    table: str
    reported: str
    paper_data: str
    shift: str
    problems: tuple[str, ...]
    purpose: str
    remark: str = ""
    method: str = ""
    settings: Mapping[str, Any] = {}
    shared: Mapping[str, Any] = {}
    start: str = ""
    starts: Mapping[str, str] = {}
    rivals: Mapping[str, Mapping[str, Any]] = {}
    smoke: Mapping[str, Any] = {}
    turns: int = 1
    besides: str = ""
    comparable: bool = True
