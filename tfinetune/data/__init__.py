"""Data sets: opening, decoding, checking, dividing and augmenting them."""

from tfinetune.data.arrays import from_arrays
from tfinetune.data.augmentation import (
    OPERATIONS,
    POLICIES,
    Operation,
    Policy,
    augment_batch,
    draw_parameters,
    flip,
    get_policy,
    mix_batch,
)
from tfinetune.data.decode import (
    DECODER_VERSION,
    MAX_PIXELS,
    REASONS,
    decode_image,
    inspect_header,
    try_decode_image,
)
from tfinetune.data.fit import ASPECTS, Aspect
from tfinetune.data.folders import find_candidates, find_files, printable
from tfinetune.data.scan import decode_files, is_foreign
from tfinetune.data.sources import from_image_folder
from tfinetune.data.splits import (
    DataSpec,
    DuplicateGroup,
    InputSpec,
    Quarantined,
    Split,
    Splits,
)

__all__ = [
    "ASPECTS",
    "DECODER_VERSION",
    "MAX_PIXELS",
    "OPERATIONS",
    "POLICIES",
    "REASONS",
    "Aspect",
    "DataSpec",
    "DuplicateGroup",
    "InputSpec",
    "Operation",
    "Policy",
    "Quarantined",
    "Split",
    "Splits",
    "augment_batch",
    "decode_files",
    "decode_image",
    "draw_parameters",
    "find_candidates",
    "find_files",
    "flip",
    "from_arrays",
    "from_image_folder",
    "get_policy",
    "inspect_header",
    "is_foreign",
    "mix_batch",
    "printable",
    "try_decode_image",
]
