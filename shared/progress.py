"""How far a running job is, as its worker tells it beside its lease."""

from typing import NamedTuple


class Progress(NamedTuple):
    """How far a running job is."""

    step: int  #: that the variations have made, as a mean
    steps: int  #: that each of them makes
    each: tuple[int, ...] = ()  #: steps that each one has made; nothing from a worker of an earlier release

    @classmethod
    def parse(cls, text: str) -> "Progress":
        step, steps, *each = map(int, text.split("/"))
        return cls(step, steps, tuple(each))

    @property
    def done(self) -> float:
        """Share of the steps, 0 ... 1."""
        return self.step / self.steps

    def __str__(self) -> str:
        return "/".join(map(str, (self.step, self.steps, *self.each)))
