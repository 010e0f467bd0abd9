"""The report of a search: one HTML file in the style of a run's, without scripts or links."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tfinetune.evaluation import formatting
from tfinetune.search.charts import learning_curves, parallel_coordinates
from tfinetune.search.folder import SearchFolder
from tfinetune.search.importance import ENOUGH, importance, trained_to_the_end
from tfinetune.search.leaderboard import (
    Result,
    default_of,
    describe,
    measured,
    pareto_front,
)
from tfinetune.search.setup import read_ranking
from tfinetune.storage import write_text


def write_search_report(folder: SearchFolder, leaderboard: Sequence[Result], verdict: str) -> None:
    """Write `report.html` of a search whose trials have ended.

    Args:
        folder: of the search.
        leaderboard: results, the winner first, the failed last.
        verdict: of the winner, the headline.
    """
    search = folder.recipe()
    good = [result for result in leaderboard if result.status != "failed"]
    first, *others = search.objectives
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("tfinetune.search"), PackageLoader("tfinetune.evaluation")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": formatting.duration, "value": _value, "measured": measured}
    page = environment.get_template("search.html.jinja").render(
        search=search,
        leaderboard=leaderboard,
        default=default_of(leaderboard),
        verdict=verdict,
        ranking=read_ranking(folder),
        front=pareto_front(good, search.objectives) if others else [],
        importance=importance(good, first, seed=search.recipe.seed),
        whole=len(trained_to_the_end(good)),
        enough=ENOUGH,
        parallel=Markup(parallel_coordinates(good, first)) if len(good) > 1 else None,
        curves=Markup(learning_curves(good)) if any(r.history for r in good) else None,
        told={result.trial: describe(result, leaderboard) for result in leaderboard},
        seconds=sum(result.seconds for result in leaderboard),
        folder=Path(folder.path).name,
    )
    write_text(folder.report_path, page)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else formatting.printable(str(value))
