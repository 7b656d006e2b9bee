"""The training loop (paper 7) on Lightning Fabric: the same code on one CPU, one GPU, several, or several machines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spd.commands.cli import note
from spd.data.pairs import Pairs
from spd.data.sources import open_pairs
from spd.errors import TrainingError, one_line
from spd.training.loader import Loader, Reading, training_batches, validation_batches
from spd.training.log import Log, Skipped
from spd.training.machine import Exact, has_bf16, launch, precision_of
from spd.training.network import Start, new_network
from spd.training.samples import Batch, epoch_length
from spd.training.settings import Settings
from spd.training.state import LAST, State, new_state
from spd.training.stop import StopRequest
from spd.training.validation import total, validate
from spd.utils.losses import silog

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Of 12.7 s of a step of atto (16 images of 192x256, one core of Zen 1) torch's Muon took 9.0; AdamW takes 0.05.
SLOW_MUON = "Muon computes in bfloat16, which this processor only emulates; steps are faster with --optimizer adamw"

LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""Messages of gloo and NCCL when another process is gone."""


def train(settings: Settings, folder: Path, fabric: Fabric, workers: int, begin: Start | dict[str, Any]) -> State:
    """Train to the last step, or to the first Ctrl-C or SIGTERM; then the run can be resumed.

    Args:
        settings: of the run.
        folder: for `last.pt`, `model.pt`, `metrics.csv` and `tensorboard/`; exists.
        fabric: devices, precision and processes; not launched yet.
        workers: processes that prepare batches, for each training process; with 0 it prepares them itself.
        begin: the first weights, or what `read_last` read of a run to resume.

    Returns:
        The state at the end; `state.stopped` is true if that is not the last step.

    Raises:
        DataError, CheckpointError: see `open_pairs`, `new_network`, `State.restore`.
        BackendError: the processes cannot be started.
        TrainingError: the loss is not finite, memory ran out, a worker died, or the data or the number of processes
            differs from that of the run to resume.
    """
    # Refuse before other processes are started: then the message comes once.
    size = (settings.height, settings.width)
    varied = settings.augment and settings.overfit is None
    pairs = open_pairs(settings.data, "train", size, varied=varied, holes=settings.holes)
    checked = pairs if settings.overfit else open_pairs(settings.data, "test", size, varied=varied)
    network = new_network(settings, begin if isinstance(begin, Start) else Start(pretrained=False))
    # The backbone's dense layers work on the last axis, and its maps need no copies in this order: a step of atto
    # at 128x160 takes 1.05 s instead of 1.21 on one core (16 images, K = 32, bf16).
    state = new_state(settings, network.to(memory_format=torch.channels_last))
    state.begun = {"processes": fabric.world_size, "pairs": len(pairs), "precision": precision_of(fabric)}
    if isinstance(begin, dict):
        _check_same_data_order(begin.get("begun", state.begun), state.begun)
    launch(fabric)
    with _torch_errors_in_one_line(settings):
        wrapped, *optimizers = fabric.setup(Exact(state.network), *state.optimizers)
        if state.average is not None:
            state.average.to(fabric.device)
        if isinstance(begin, dict):
            state.restore(begin)

        steps = _total_steps(settings, pairs, fabric.world_size)
        if state.progress.step >= steps:
            return state
        reading = Reading(fabric.global_rank, fabric.world_size, workers, pin=fabric.device.type == "cuda")
        with ExitStack() as stack:
            # The workers are forked off before the log has threads.
            batches = stack.enter_context(training_batches(pairs, settings, state.progress.step, reading))
            validation = stack.enter_context(validation_batches(checked, settings, reading))
            log = stack.enter_context(Log(folder, steps, state.progress.step)) if fabric.is_global_zero else None
            stop = stack.enter_context(StopRequest(announced=fabric.is_global_zero))
            if log:
                log.say(_first_line(state, fabric, pairs, steps))
                if settings.optimizer == "muon" and fabric.device.type == "cpu" and not has_bf16("cpu"):
                    log.say(SLOW_MUON)
                for data in dict.fromkeys((pairs, checked)):
                    if data.description:
                        log.say(data.description)
            _Run(state, folder, fabric, log, wrapped, optimizers, steps).go(batches, validation, stop)
    return state


def _check_same_data_order(begun: dict[str, Any], now: dict[str, Any]) -> None:
    for name, advice in (("processes", "give the --devices and --nodes it had"), ("pairs", "give the same --data")):
        if begun[name] != now[name]:
            raise TrainingError(
                f"the number of {name} was {begun[name]:,} when the run started and is {now[name]:,} now: the data "
                f"would come in another order; {advice}, or start a new run from its weights with --init"
            )


def _total_steps(settings: Settings, pairs: Pairs, world: int) -> int:
    """Steps of the whole run."""
    if settings.max_steps is not None:
        return settings.max_steps
    return settings.epochs * max(1, epoch_length(pairs, settings) // (settings.batch * world))


def _first_line(state: State, fabric: Fabric, pairs: Pairs, steps: int) -> str:
    settings, parameters = state.settings, sum(p.numel() for p in state.network.parameters())
    return (
        f"{settings.network} {settings.preset}, {parameters:,} parameters, "
        f"on {pairs.title} ({len(pairs):,} pairs) at {settings.height}x{settings.width}: steps "
        f"{state.progress.step + 1:,} to {steps:,} of {settings.batch * fabric.world_size} images, "
        f"{fabric.world_size} x {fabric.device.type}, {precision_of(fabric)}"
    )


@contextmanager
def _torch_errors_in_one_line(settings: Settings) -> Iterator[None]:
    """Raise as TrainingError, in one line, what torch raises as RuntimeError for causes outside the program."""
    try:
        yield
    except RuntimeError as error:
        reason = one_line(error, whole=True)
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in reason:
            message = (
                f"the memory of the device ran out with {settings.batch} images of {settings.height}x{settings.width} "
                f"and {settings.points} points each; start again with a smaller --batch, --size or --preset"
            )
        elif any(sign in reason for sign in LOST):
            message = "another process of the run ended, and this one with it; its own message says why"
        else:
            raise
        raise TrainingError(message) from error


class _Run:
    """A run between its start, or --resume, and its end."""

    def __init__(
        self,
        state: State,
        folder: Path,
        fabric: Fabric,
        log: Log | None,
        network: Any,
        optimizers: list[Any],
        steps: int,
    ) -> None:
        self.state, self.folder, self.fabric, self.log = state, folder, fabric, log
        self.network, self.optimizers, self.steps = network, optimizers, steps
        self.saved = state.progress.step
        self.skipped = Skipped(log.say if log else note)
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.images, self.began = 0, time.monotonic()
        self.lr = 0.0
        # On the CPU: asking for a stop does not wait for the GPUs.
        self.group: Any = torch.distributed.new_group(backend="gloo") if fabric.world_size > 1 else None

    def go(self, training: Loader, validation: Loader, stop: StopRequest) -> None:
        """Train to the last step or a request to stop."""
        settings, progress = self.state.settings, self.state.progress
        # Of several processes another may already be in the step that this one waits to begin.
        batches = training.batches(unwanted=lambda: stop.asked and self.group is None)
        while progress.step < self.steps and not self.state.stopped:
            batch = next(batches, None)
            if batch is None:
                self._save()
                self.state.stopped = True
                return
            self._step(batch)
            last = progress.step == self.steps
            if progress.step % settings.log_every == 0 or last:
                self._write_row()
            if progress.step % settings.val_every == 0 or last:
                self._validate(validation)
            stopping = self._stop_requested(stop)
            if progress.step % settings.save_every == 0 or last or stopping:
                self._save()
            self.state.stopped = stopping and not last

    def _step(self, batch: Batch) -> None:
        """One step. Its random numbers depend on the seed, the step and the process only.

        Nothing in it waits for a GPU.
        """
        state, device = self.state, self.fabric.device
        torch.manual_seed(_step_seed(state.settings.seed, state.progress.step, self.fabric.global_rank))
        self.lr = state.set_learning_rate(self.steps)
        image, points, target_BK = (batch[name].to(device, non_blocking=True) for name in ("image", "points", "depth"))
        loss = silog(self.network(image, points.view(torch.int32)), target_BK, state.settings.lambda_var)
        self.fabric.backward(loss)
        # Fabric's own clips the parameters of one optimiser; there may be two. Neither precision scales the loss.
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), state.settings.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.update_average()
        state.progress.step += 1
        self.losses.append(loss.detach())
        self.norms.append(norm)
        self.images += len(batch["image"]) * self.fabric.world_size
        self.skipped.count(batch["skipped"])
        if self.log:
            self.log.step(state.progress.step)

    def _stop_requested(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; all stop after the same step."""
        if self.group is None:
            return stop.asked
        asked = torch.tensor(float(stop.asked))
        torch.distributed.all_reduce(asked, group=self.group)
        return bool(asked)

    def _collect_losses(self) -> None:
        """Add the losses and counts of all processes since the last call to the progress.

        Raises:
            TrainingError: a loss or a gradient is not finite.
        """
        if not self.losses:
            return
        progress = self.state.progress
        counts = self.losses[0].new_tensor([self.skipped.take()])
        *sums, skipped = total(torch.cat([torch.stack(self.losses + self.norms), counts]), self.fabric).tolist()
        progress.skipped += round(skipped)
        new = [value / self.fabric.world_size for value in sums[: len(self.losses)]]
        first = progress.step - len(new) + 1
        for step, (loss, norm) in enumerate(zip(new, sums[len(new) :], strict=True), first):
            if not math.isfinite(loss + norm):
                found = f"loss is {loss}" if not math.isfinite(loss) else "gradient is not finite"
                kept = f", with --init {self.folder / LAST} from step {self.saved}" if self.saved else ""
                raise TrainingError(
                    f"the {found} in step {step}; look at the data, or start a new run with a lower --lr{kept}"
                )
        progress.losses += new
        self.losses, self.norms = [], []

    def _write_row(self) -> None:
        """Record the mean loss since the row before."""
        self._collect_losses()
        progress = self.state.progress
        loss = float(torch.tensor(progress.losses).mean())
        seconds = time.monotonic() - self.began
        if self.log:
            speed = self.images / seconds
            self.log.row(
                progress.step, {"loss": loss, "lr": self.lr, "images_per_s": speed, "skipped": progress.skipped}
            )
        progress.losses, progress.seconds = [], progress.seconds + seconds
        self.images, self.began = 0, time.monotonic()

    def _validate(self, validation: Loader) -> None:
        """Measure at the queries of the validation images, and keep the weights if they are the best so far."""
        self._collect_losses()
        began, progress = time.monotonic(), self.state.progress
        metrics = validate(self.state.evaluated, validation.batches(), self.fabric, self.skipped.name)
        if self.log:
            self.log.row(progress.step, metrics)
        if metrics["abs_rel"] < progress.best_abs_rel:
            progress.best_abs_rel, progress.best_step = metrics["abs_rel"], progress.step
            if self.fabric.is_global_zero:
                self.state.save_best(self.folder)
        self.began += time.monotonic() - began

    def _save(self) -> None:
        self._collect_losses()
        if self.log:
            self.log.flush()
            self.state.save_last(self.folder)
        self.saved = self.state.progress.step


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for torch, of 64 bits, that differs between neighbouring steps and processes."""
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**64
