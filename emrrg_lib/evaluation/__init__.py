"""Scores that can be trusted: word overlap, clinical efficacy, controls, intervals, pointing."""

from emrrg_lib.evaluation.clinical import clinical_scores
from emrrg_lib.evaluation.labeler import label_report
from emrrg_lib.evaluation.nlg import score_each, score_reports
