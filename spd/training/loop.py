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
from spd.training.machine import has_bf16, launch, precision_of
from spd.training.network import Start, new_network
from spd.training.samples import Batch, epoch_length
from spd.training.settings import Settings
from spd.training.state import LAST, State, new_state
from spd.training.stop import StopRequest
from spd.training.validation import total, unit, validate
from spd.utils.losses import silog

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Of 12.7 s of a step of atto (16 images of 192x256, one core of Zen 1) torch's Muon took 9.0; AdamW takes 0.05.
SLOW_MUON = "Muon computes in bfloat16, which this processor only emulates; steps are faster with --optimizer adamw"

LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""What gloo and NCCL say where another process is gone."""


def train(settings: Settings, folder: Path, fabric: Fabric, workers: int, begin: Start | dict[str, Any]) -> State:
    """Train until the last step, or until the first Ctrl-C or SIGTERM, after which the run can be resumed.

    Args:
        settings: what to compute.
        folder: for `last.pt`, `model.pt`, `metrics.csv` and `tensorboard/`; exists.
        fabric: decides devices, precision and how processes work together; not launched yet.
        workers: processes of each process that prepare batches; 0 prepares them in between.
        begin: the first weights, or what `read_last` read, to go on from there.

    Returns:
        The state at the end; `state.stopped` says whether it is not the last step's.

    Raises:
        DataError, CheckpointError: see `open_pairs`, `new_network`, `State.restore`.
        BackendError: the processes cannot be started.
        TrainingError: the loss is not finite, memory ran out, or the data or the number of processes is not what the
            run was begun with.
    """
    # Whatever can be refused is, before other processes are started, so that it is refused once.
    size = (settings.height, settings.width)
    varied = settings.augment and settings.overfit is None
    pairs = open_pairs(settings.data, "train", size, varied=varied, holes=settings.holes)
    checked = pairs if settings.overfit else open_pairs(settings.data, "test", size, varied=varied)
    network = new_network(settings, begin if isinstance(begin, Start) else Start(pretrained=False))
    # The backbone's dense layers work on the last axis, so that its maps need no copies in this order: a step of atto
    # at 128x160 takes 1.05 s instead of 1.21 on one core (16 images, K = 32, bf16).
    state = new_state(settings, network.to(memory_format=torch.channels_last))
    state.begun = {"processes": fabric.world_size, "pairs": len(pairs), "precision": precision_of(fabric)}
    if isinstance(begin, dict):
        _check_order(begin.get("begun", state.begun), state.begun)
    launch(fabric)
    with _what_a_user_can_change(settings):
        wrapped, *optimizers = fabric.setup(Exact(state.network), *state.optimizers)
        if state.average is not None:
            state.average.to(fabric.device)
        if isinstance(begin, dict):
            state.restore(begin)

        steps = _steps(settings, pairs, fabric.world_size)
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
                log.say(_described(state, fabric, pairs, steps))
                if settings.optimizer == "muon" and fabric.device.type == "cpu" and not has_bf16("cpu"):
                    log.say(SLOW_MUON)
                for data in dict.fromkeys((pairs, checked)):
                    if data.description:
                        log.say(data.description)
            _Run(state, folder, fabric, log, wrapped, optimizers, steps).go(batches, validation, stop)
    return state


def _check_order(begun: dict[str, Any], now: dict[str, Any]) -> None:
    for name, advice in (("processes", "give the --devices and --nodes it had"), ("pairs", "give the same --data")):
        if begun[name] != now[name]:
            raise TrainingError(
                f"the number of {name} was {begun[name]:,} when the run was begun and is {now[name]:,} now, so that "
                f"the data would come in another order; {advice}, or begin a new run from its weights with --init"
            )


def _steps(settings: Settings, pairs: Pairs, world: int) -> int:
    """Steps of the whole run."""
    if settings.max_steps is not None:
        return settings.max_steps
    return settings.epochs * max(1, epoch_length(pairs, settings) // (settings.batch * world))


def _described(state: State, fabric: Fabric, pairs: Pairs, steps: int) -> str:
    settings, parameters = state.settings, sum(p.numel() for p in state.network.parameters())
    return (
        f"{settings.network} {settings.preset}, {parameters:,} parameters, "
        f"on {pairs.title} ({len(pairs):,} pairs) at {settings.height}x{settings.width}: steps "
        f"{state.progress.step + 1:,} to {steps:,} of {settings.batch * fabric.world_size} images, "
        f"{fabric.world_size} x {fabric.device.type}, {precision_of(fabric)}"
    )


@contextmanager
def _what_a_user_can_change(settings: Settings) -> Iterator[None]:
    """Say in a line what torch raises as a RuntimeError with a traceback, wherever the step is."""
    try:
        yield
    except RuntimeError as error:
        reason = one_line(error, whole=True)
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in reason:
            message = (
                f"the memory of the device ran out with {settings.batch} images of {settings.height}x{settings.width} "
                f"and {settings.points} points each; begin again with a smaller --batch, --size or --preset"
            )
        elif any(sign in reason for sign in LOST):
            message = "another process of the run ended, and this one with it; what ended it, that one says"
        else:
            raise
        raise TrainingError(message) from error


class Exact(nn.Module):
    """What Fabric wraps in the place of the network.

    In mixed precision it hands floating-point arguments over in bfloat16, where a point is up to 2 pixels off; integers
    it leaves as they are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_B3HW: Tensor, bits_BK2: Tensor) -> Tensor:
        """Depth in metres [B, K], for uint8 images [B, 3, H, W] and the bits of float32 points (u, v), int32."""
        depth_BK: Tensor = self.network(unit(image_B3HW), bits_BK2.view(torch.float32))
        return depth_BK


class _Run:
    """One sitting of a run."""

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
        # On the CPU, so that asking for a stop does not wait for the GPUs.
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
                self._row()
            if progress.step % settings.val_every == 0 or last:
                self._validate(validation)
            stopping = self._asked(stop)
            if progress.step % settings.save_every == 0 or last or stopping:
                self._save()
            self.state.stopped = stopping and not last

    def _step(self, batch: Batch) -> None:
        """One step; all that is random in it depends on the seed, the step and the process only.

        Nothing in it waits for a GPU.
        """
        state, device = self.state, self.fabric.device
        torch.manual_seed(_mixed(state.settings.seed, state.progress.step, self.fabric.global_rank))
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

    def _asked(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop, so that all stop after the same step."""
        if self.group is None:
            return stop.asked
        asked = torch.tensor(float(stop.asked))
        torch.distributed.all_reduce(asked, group=self.group)
        return bool(asked)

    def _collect(self) -> None:
        """Bring what the processes counted since the last time into the progress, and see that losses are numbers."""
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
                    f"the {found} in step {step}; look at the data, or begin a new run with a lower --lr{kept}"
                )
        progress.losses += new
        self.losses, self.norms = [], []

    def _row(self) -> None:
        """Record the mean loss since the row before."""
        self._collect()
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
        self._collect()
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
        self._collect()
        if self.log:
            self.log.flush()
            self.state.save_last(self.folder)
        self.saved = self.state.progress.step


def _mixed(seed: int, step: int, rank: int) -> int:
    """A seed for torch, of 64 bits, that differs between neighbouring steps and processes."""
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**64
