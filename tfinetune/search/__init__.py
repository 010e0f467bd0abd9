"""Search: the best recipe for a data set, on KerasTuner."""

from tfinetune.search.space import Choice, Range, Space

__all__ = ["Choice", "Range", "Space"]
