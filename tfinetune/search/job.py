"""The search from question to winner. What the command and scripts call."""

import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfinetune import workflow
from tfinetune.errors import SearchError
from tfinetune.recipe import Recipe
from tfinetune.reporting import Reporter
from tfinetune.runs import RunFolder
from tfinetune.search.folder import SearchFolder, SearchRecipe
from tfinetune.search.leaderboard import Result, pareto_front, verdict
from tfinetune.search.ranking import Ranked
from tfinetune.search.report import write_search_report
from tfinetune.search.service import LOOPBACK, run_chief
from tfinetune.search.setup import prepare, read_ranking
from tfinetune.search.soup import SOUP, add_soup
from tfinetune.search.space import Space
from tfinetune.search.workbench import Workbench
from tfinetune.security.saved_model import is_trusting, trusting
from tfinetune.storage import write_json
from tfinetune.training import Checkpoint
from tfinetune.workflow.prepare import check_trust, load_default


@dataclass(frozen=True)
class Search:
    """A finished search.

    Attributes:
        folder: paths of everything.
        leaderboard: results, the winner first.
        best: the run of the winner, an ordinary one.
        ranking: of the backbones, where there were several.
    """

    folder: SearchFolder
    leaderboard: list[Result]
    best: workflow.Run
    ranking: list[Ranked]

    @property
    def pareto(self) -> list[Result]:
        """The results that none beats in every objective; see `leaderboard`."""
        return pareto_front(self.leaderboard, self.folder.recipe().objectives)

    @property
    def verdict(self) -> str:
        """Whether the winner is better than the default recipe, and whether a soup ships for it."""
        said = verdict(self.leaderboard, self.folder.recipe().objectives[0])
        if self.best.metrics["shipped"] != SOUP:
            return said
        because = self.best.metrics["shipped_because"].removesuffix(".")
        return f"{said} The mean of its weights and those of others is kept: {because}."

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON takes, without the epochs of each trial."""
        return {
            "search": str(self.folder.path),
            "best": str(self.folder.best_path),
            "objectives": list(self.folder.recipe().objectives),
            "ranking": [row.to_dict() for row in self.ranking],
            "verdict": self.verdict,
            "leaderboard": [_without_history(result) for result in self.leaderboard],
            "pareto": [result.trial for result in self.pareto],
            "metrics": self.best.metrics,
        }


def run(
    search: SearchRecipe | None,
    output: str | Path,
    *,
    resume: bool = False,
    max_time: float | None = None,
    workers: int = 1,
    chief: str | None = None,
    trust: bool = False,
    reporter: Reporter | None = None,
    workbench: Workbench | None = None,
) -> Search:
    """Search, and leave the winner as an ordinary run in `output/best`.

    The first trial is the recipe that the search starts from, so the winner is never worse than it
    on the validation photos.

    Args:
        search: what to do; None, when resuming, goes on with what was asked then.
        output: folder of the search; new or empty, unless resuming.
        resume: go on with a search that was interrupted, or that may take more time. Trials that
            have ended stay as they are; one that was running is repeated, and one that time was up
            for goes on. A search in which nothing changes is returned as it is; where something
            does, `output/best` is made anew.
        max_time: seconds after which no epoch is started. A winner that time was up for, or that
            Hyperband paused, then ships as it is; without a limit it is trained to its end.
        workers: processes that train trials at the same time. With one, the same seed gives the
            same trials and results.
        chief: `HOST:PORT` to give trials out at, for `tfinetune search --worker` on this and other
            machines that see the folder and the photos; then `workers` may be 0.
        trust: see `load_backbone`; said again to resume. Workers that this call starts have it.
        reporter: shows progress; None is silent.
        workbench: what trials share; give several searches in a process the same one.

    Raises:
        SearchError: if the search is impossible, another process searches in the folder, or no
            trial succeeded.

    Example:
        >>> import tfinetune as ft
        >>> recipe = ft.Recipe(data="photos/", backbone="base_model.h5")
        >>> search = ft.search.SearchRecipe(recipe=recipe, trials=20)
        >>> ft.search.run(search, "runs/search").best.metrics  # doctest: +SKIP
    """
    if workers < (0 if chief else 1):
        raise SearchError(f"A search needs a worker; got workers={workers}. Give 1 or more.")
    if max_time is not None and not max_time >= 0:
        raise SearchError(
            f"The time that a search may take is 0 seconds or more; got {max_time:g}."
        )
    with reporter or Reporter() as reporter, trusting(trust), ExitStack() as stack:
        folder = open_search(search, output, resume=resume, reporter=reporter)
        stack.enter_context(folder.held())
        folder.write_deadline(None if max_time is None else time.time() + max_time)
        reporter.log_to(folder.log_path)
        workbench = workbench or Workbench(reporter=reporter)
        if workers == 1 and chief is None:
            run_trials(folder, workbench)
        else:
            prepare(folder, workbench)
            address = chief or LOOPBACK
            run_chief(folder, workers=workers, address=address, reporter=reporter)
        return finish(folder, workbench)


def run_trials(folder: SearchFolder, workbench: Workbench) -> None:
    """Rank the backbones and run the trials that are missing, in this process."""
    setup = prepare(folder, workbench)
    for trial in setup.start_oracle():
        workbench.reporter.say(
            f"Trial {trial} is repeated, for the search ended while it ran. If it did for want of "
            "memory, resume with --workers 2: a trial that its worker is lost by again and again "
            "then counts as failed, and the search goes on."
        )
    setup.tuner(workbench).search()


def finish(folder: SearchFolder, workbench: Workbench) -> Search:
    """Make a run of the winner, and write leaderboard and report.

    Raises:
        SearchError: if no trial succeeded.
    """
    leaderboard = folder.leaderboard()
    if not leaderboard or leaderboard[0].status == "failed":
        reasons = "; ".join(f"trial {r.trial}: {r.reason}" for r in leaderboard[:3])
        raise SearchError(f"No trial succeeded. {reasons or 'None was started in time.'}")
    deadline = folder.deadline()
    if deadline is None or time.time() < deadline:  # else trials may go on, with more time
        folder.drop_checkpoints()
    board = [_without_history(result) for result in leaderboard]
    best = RunFolder(folder.best_path)
    ranking = read_ranking(folder)
    if best.finished and _written_board(folder) == board:
        workbench.reporter.say(f"The search in {folder.path} is finished already.")
        return Search(folder, leaderboard, workflow.Run(best, trust=is_trusting()), ranking)
    if best.finished:
        workbench.reporter.say(f"The search went on: {best.path} is made anew.")
    found = Search(folder, leaderboard, _train_best(folder, leaderboard, workbench), ranking)
    write_search_report(folder, leaderboard, found.verdict)
    write_json(folder.leaderboard_path, board)  # last: it says that `best` is of these trials
    return found


def open_search(
    search: SearchRecipe | None,
    output: str | Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> SearchFolder:
    """Take a folder for a search, or that of one that goes on; see `run`."""
    if search is not None:
        trust = search.recipe.trust or is_trusting()
        search = _named(search.replace(recipe=search.recipe.replace(trust=trust)))
    unnamed = search is not None and not (search.recipe.backbone or search.backbones)
    if resume:
        if unnamed:  # it was chosen then
            chosen = SearchFolder.open(output).recipe().recipe.backbone
            search = search.replace(recipe=search.recipe.replace(backbone=chosen))
        return SearchFolder.resume(output, search)
    if search is None:
        raise SearchError("There is nothing to search for: give a SearchRecipe, or resume=True.")
    check_trust(search.recipe)
    if unnamed:
        recipe, _ = load_default(search.recipe, reporter or Reporter())
        search = search.replace(recipe=recipe)
    # An impossible space is refused before the folder is made.
    Space(**search.space).hyperparameters(search.recipe)
    return SearchFolder.create(output, search)


def _named(search: SearchRecipe) -> SearchRecipe:
    """Return a search that starts from the first backbone of its space, where it names no other."""
    if search.recipe.backbone or search.backbones or "backbone" not in search.space:
        return search
    candidates = Space(**search.space).domains["backbone"].values
    return search.replace(recipe=search.recipe.replace(backbone=candidates[0]))


def _written_board(folder: SearchFolder) -> list[dict[str, Any]] | None:
    if not folder.leaderboard_path.is_file():
        return None
    return json.loads(folder.leaderboard_path.read_text(encoding="utf-8"))


def _train_best(
    folder: SearchFolder, leaderboard: list[Result], workbench: Workbench
) -> workflow.Run:
    winner = leaderboard[0]
    recipe = Recipe.load(folder.trial_path(winner.trial) / "recipe.yaml")
    checkpoint = add_soup(folder, leaderboard, workbench)
    unfinished = winner.status in ("stopped", "paused")
    if checkpoint and unfinished and folder.deadline() is not None:
        checkpoint = _settled(checkpoint)
    path = folder.best_path
    if path.exists():
        shutil.rmtree(path)
    return workflow.train(
        recipe,
        path,
        checkpoint=checkpoint,
        trust=is_trusting(),
        cache=workbench.cache,
        reporter=workbench.reporter,
    )


def _settled(checkpoint: Path) -> Path:
    """Write what a checkpoint offers so far beside it; the trial itself may still go on."""
    state = Checkpoint(checkpoint).load()
    state.settle()
    path = checkpoint.with_name("settled.npz")
    Checkpoint(path).save(state)
    return path


def _without_history(result: Result) -> dict[str, Any]:
    return {name: value for name, value in asdict(result).items() if name != "history"}
