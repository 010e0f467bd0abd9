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
        """Read the folder of a search whose backbones are chosen."""
        search = folder.recipe()
        names = [row.backbone for row in read_ranking(folder) if not row.reason][: search.keep]
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

    def start_oracle(self) -> None:
        """Let the oracle go on where it was."""
        if Path(self.oracle._get_oracle_fname()).is_file():
            self.oracle.reload()

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
    setup = Setup.of(folder)
    workbench.tuner(setup.base)
    return setup


def read_ranking(folder: SearchFolder) -> list[Ranked]:
    """Return the backbones as they were ranked, none where there was nothing to choose."""
    if not folder.ranking_path.is_file():
        return []
    return [Ranked(**row) for row in json.loads(folder.ranking_path.read_text(encoding="utf-8"))]
