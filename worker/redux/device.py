"""The device that computes, as the engine's thread and the jobs' threads share it.

On a GPU a call returns before its work is done. The engine stays one call ahead of the device, so that the device never
waits for Python; a job's thread computes on a stream of its own and waits only for itself. On a CPU nothing of this
exists: whatever returns is done.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor


class Device:
    """A torch device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._gpu = device.type == "cuda"
        self._beside = torch.cuda.Stream(device) if self._gpu else None  # type: ignore[no-untyped-call]
        self._latest: torch.cuda.Event | None = None  #: end of the call that was started last

    def beside(self, make: Callable[[], Tensor]) -> Tensor:
        """Return what ``make`` computes in a job's thread, without delaying what the engine has started."""
        if not self._beside:
            return make()
        with torch.cuda.stream(self._beside):
            made = make()
            self._beside.synchronize()
        made.record_stream(torch.cuda.default_stream(self._device))  # who uses it, so that its memory is kept till then
        return made

    def stage(self, tensor: Tensor) -> Tensor:
        """Return the tensor where :meth:`send` takes it from without waiting."""
        return tensor.pin_memory() if self._gpu else tensor

    def send(self, tensor: Tensor) -> Tensor:
        """Return the staged tensor on the device."""
        return tensor.to(self._device, non_blocking=True)

    def fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start to copy a tensor to the host; what is returned waits for the copy and may be called in any thread."""
        if not self._gpu:
            return lambda: tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        copied = self._event()

        def wait() -> Tensor:
            copied.synchronize()
            return host

        return wait

    def keep_pace(self) -> None:
        """Wait for the end of the call before the one that was just started: so a call takes as long as the device."""
        if self._gpu:
            before, self._latest = self._latest, self._event()
            if before:
                before.synchronize()

    def memory(self) -> tuple[int, int]:
        """Return the GPU's bytes in use, by whomever, and in all; zeros without a GPU."""
        free, most = torch.cuda.mem_get_info(self._device) if self._gpu else (0, 0)
        return most - free, most

    def uuid(self) -> str:
        """Return what no other GPU is called; nothing without a GPU."""
        return f"GPU-{torch.cuda.get_device_properties(self._device).uuid}" if self._gpu else ""

    def mark(self) -> Any:
        """Return a mark behind all that the device was given so far."""
        return self._event() if self._gpu else perf_counter()

    @staticmethod
    def between(first: Any, second: Any) -> float | None:
        """Return how many seconds the device took from one mark to another; None: it has not come so far."""
        if isinstance(first, torch.cuda.Event):
            return float(first.elapsed_time(second)) / 1e3 if second.query() else None
        return float(second - first)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
