"""What every process of a search works with, read from its folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from tfinetune.recipe import Recipe
from tfinetune.search.folder import SearchFolder
from tfinetune.search.oracles import Durable, build_oracle
from tfinetune.search.ranking import Ranked, rank_backbones
from tfinetune.search.space import Space
from tfinetune.search.tuner import RecipeTuner
from tfinetune.search.workbench import Workbench
from tfinetune.storage import write_json
from tfinetune.training.strategies import build_strategy
from tfinetune.workflow.prepare import check_trust

HOPELESS = 0.2
"""How far the probe accuracy of a backbone may be behind the best one's to be searched over."""


@dataclass(frozen=True)
class Setup:
    """A search whose backbones are chosen."""

    folder: SearchFolder
    space: Space
    base: Recipe
    oracle: Durable
    max_epochs: int

    @classmethod
    def of(cls, folder: SearchFolder) -> "Setup":
        """Read the folder of a search whose backbones are chosen.

        Raises:
            RecipeError: if it was made with trust that the caller does not give.
        """
        search = folder.recipe()
        check_trust(search.recipe)
        names = [row.backbone for row in worth_searching(read_ranking(folder))][: search.keep]
        base, space = search.recipe, Space(**search.space)
        if names:
            base = base.replace(backbone=names[0])
            space = space.replace(backbone=names)
        strategy = build_strategy(base.strategy, base.strategy_parameters)
        epochs = sum(phase.epochs for phase in strategy.phases(("stem", "head"), None))
        oracle = build_oracle(
            search.oracle,
            space.hyperparameters(base),
            objective=search.objectives[0],
            trials=search.trials,
            epochs=max(1, epochs),
            seed=base.seed,
        )
        oracle._set_project_dir(str(folder.path), folder.trials_path.name)
        oracle.deadline = folder.deadline()
        return cls(folder, space, base, oracle, max(1, epochs))

    def start_oracle(self) -> list[str]:
        """Let the oracle go on where it was, first of all with trials that time was up for.

        Returns:
            The trials that were running when the search was interrupted, which are repeated.
        """
        if Path(self.oracle._get_oracle_fname()).is_file():
            self.oracle.reload()
            self.oracle.line_up([r.trial for r in self.folder.results() if r.status == "stopped"])
        return [name for name in self.oracle._retry_queue if self.folder.result(name) is None]

    def read_photos(self, workbench: Workbench) -> None:
        """Open the first backbone and read the photos, which are those that the search began with.

        Raises:
            SearchError: if no trial could use them, or they changed.
        """
        _, splits = workbench.tuner(self.base, precisions=self.folder.precisions_path)
        self.folder.check_photos(splits.spec.fingerprint)

    def tuner(self, workbench: Workbench) -> RecipeTuner:
        """Return what runs trials in this process."""
        return RecipeTuner(
            self.oracle,
            space=self.space,
            base=self.base,
            folder=self.folder,
            workbench=workbench,
            max_epochs=self.max_epochs,
        )


def prepare(folder: SearchFolder, workbench: Workbench) -> Setup:
    """Choose the backbones, and refuse data that no trial could use."""
    search = folder.recipe()
    if search.backbones and not folder.ranking_path.is_file():
        ranked = rank_backbones(search.backbones, search.recipe, workbench=workbench)
        write_json(folder.ranking_path, [row.to_dict() for row in ranked])
        kept = worth_searching(ranked)
        for row in ranked:
            if row not in kept:
                reason = _why_not(row).removesuffix(".")
                workbench.reporter.say(f"{row.backbone} is not searched over: {reason}.")
    setup = Setup.of(folder)
    setup.read_photos(workbench)
    if setup.oracle.remark:
        workbench.reporter.say(setup.oracle.remark)
    return setup


def worth_searching(ranking: list[Ranked]) -> list[Ranked]:
    """Return the backbones that can be used and are not hopeless, in the same order."""
    usable = [row for row in ranking if not row.reason]
    return [row for row in usable if row.probe_accuracy > usable[0].probe_accuracy - HOPELESS]


def _why_not(row: Ranked) -> str:
    return row.reason or (
        f"a classifier on its features, as they are, is right for {row.probe_accuracy:.1%} of the "
        f"photos, more than {100 * HOPELESS:.0f} points behind the best"
    )


def read_ranking(folder: SearchFolder) -> list[Ranked]:
    """Return the backbones as they were ranked, none where there was nothing to choose."""
    if not folder.ranking_path.is_file():
        return []
    return [Ranked(**row) for row in json.loads(folder.ranking_path.read_text(encoding="utf-8"))]
