"""Search: the best recipe for a data set, on KerasTuner."""

from tfinetune.search.client import work
from tfinetune.search.domains import Choice, Range
from tfinetune.search.folder import SearchFolder, SearchRecipe
from tfinetune.search.hypermodel import HyperFineTune
from tfinetune.search.job import Search, run
from tfinetune.search.leaderboard import Result, describe, measured, pareto_front
from tfinetune.search.ranking import Ranked, rank_backbones
from tfinetune.search.space import Space
from tfinetune.search.transferability import h_score, log_me, probe_accuracy
from tfinetune.search.tuner import RecipeTuner
from tfinetune.search.workbench import Workbench

__all__ = [
    "Choice",
    "HyperFineTune",
    "Range",
    "Ranked",
    "RecipeTuner",
    "Result",
    "Search",
    "SearchFolder",
    "SearchRecipe",
    "Space",
    "Workbench",
    "describe",
    "h_score",
    "log_me",
    "measured",
    "pareto_front",
    "probe_accuracy",
    "rank_backbones",
    "run",
    "work",
]
