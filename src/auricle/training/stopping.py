"""Early stopping: the best validation so far, and how long ago it was."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class Stopping:
    """Stops after `patience` validations without improvement; None never stops."""

    mode: Literal["min", "max"]
    patience: int | None
    best: float | None = None
    best_step: int = 0
    waited: int = 0

    def update(self, value: float, step: int) -> bool:
        """Take in one validation; True where it is the best so far (NaN never is)."""
        better = value == value and (self.best is None or (value < self.best if self.mode == "min" else value > self.best))
        if better:
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.waited >= self.patience
