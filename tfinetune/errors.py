"""Every exception that tfinetune raises on purpose.

Each also inherits the builtin that fits it, so code that has never heard of tfinetune still catches
it. A message says what failed, what was received, what is allowed, and the way out.
"""


class TfinetuneError(Exception):
    """Base of all errors raised on purpose: one readable paragraph, no traceback needed."""


class DataError(TfinetuneError, ValueError):
    """The data set cannot be used: empty, one class only, or no readable example."""


class BackboneError(TfinetuneError, ValueError):
    """A backbone cannot be opened or used: unknown format, no image input, no feature to cut at."""


class BackboneUnavailableError(TfinetuneError, ConnectionError):
    """Pretrained weights must be downloaded and cannot be."""


class MissingExtraError(TfinetuneError, ImportError):
    """A feature needs a package that an extra of tfinetune installs."""


class UnsafeModelError(BackboneError):
    """A model file would run code or exhaust memory when opened; it was refused before that."""


class InputRangeError(BackboneError):
    """The pixel range a backbone expects cannot be decided."""


class FixedSizeError(BackboneError):
    """A backbone holds layers of fixed size and cannot be rebuilt at another image size."""


class UnknownLayerError(TfinetuneError, KeyError):
    """A layer rule matches nothing."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class TrainablePlanError(TfinetuneError, RuntimeError):
    """Keras reports other trainable variables than the plan asked for."""


class RecipeError(TfinetuneError, ValueError):
    """A recipe has an unknown field, a value out of range, or differs from the run it resumes."""


class RunError(TfinetuneError, ValueError):
    """A run folder is missing, incomplete, damaged or not empty."""


class DeviceError(TfinetuneError, RuntimeError):
    """The devices that were asked for are not there, or cannot train what was asked for."""


class StorageError(TfinetuneError, OSError):
    """A file could not be written completely; nothing half-written was left."""


class DamagedError(StorageError):
    """A stored file is not what was written; it was removed."""


class ParityError(TfinetuneError, RuntimeError):
    """An exported model predicts differently from the Keras model it came from."""


class OutOfMemoryError(TfinetuneError, MemoryError):
    """Memory ran out; a smaller batch or image helps."""


class SearchError(TfinetuneError, ValueError):
    """A search cannot start, go on or end: impossible space, other folder, no chief, no winner."""


class TrainingError(TfinetuneError, RuntimeError):
    """Training diverged and left no usable model."""


def reason_of(error: Exception) -> str:
    """Return what a record says of an error: its paragraph; with its class if it is not ours."""
    if isinstance(error, TfinetuneError):
        return str(error)
    # The `repr` of TensorFlow's errors leaves the message out.
    return " ".join(f"{type(error).__name__}: {error}".split())
