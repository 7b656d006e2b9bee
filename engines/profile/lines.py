"""Command lines of NVIDIA's own tools for a bundle: trtexec of TensorRT 10 and 11, and Polygraphy, also for RTX.

The precision is in the graphs, so no line names one. What trtexec measures by default changed with version 11: there
networks are strongly typed, CUDA graphs and spinning are on, transfers are off, and layers are always timed in a run of
their own; version 10 has to be told each of these.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.profiles import Shape, graph_profiles, input_shapes
from spd.bundle import GRAPHS, Bundle
from spd.bundle.gate import TOLERANCES
from spd.bundle.plans import PlanProfile, Target
from spd.errors import BackendError, InputError

VERSIONS = (10, 11)

TOLD_10 = ("--stronglyTyped", "--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--separateProfileRun")
"""What trtexec of TensorRT 10 does only if told; that of 11 takes these as deprecated words without effect."""

TIMING = ("--warmUp=500", "--duration=3", "--iterations=100", "--percentile=50,90,99")

LOADER = "polygraphy_inputs.py"

FOR_RTX = ("POLYGRAPHY_USE_TENSORRT_RTX=1", "polygraphy")
"""Polygraphy with TensorRT for RTX in place of TensorRT."""


@dataclass(frozen=True)
class Case:
    """One shape to measure."""

    graph: str
    """encoder or decoder."""
    index: int
    """The optimisation profile."""
    profile: PlanProfile
    points: int
    """K, the largest of the bucket, to which the runtime pads; 0 for the encoder."""

    @property
    def label(self) -> str:
        """For file names and headings."""
        return self.graph if not self.points else f"{self.graph}.k{self.points}"


def cases(bundle: Bundle, precision: str, points: int | None = None) -> tuple[Case, ...]:
    """The encoder, and the decoder at each bucket of K, or at the one that holds `points`.

    The buckets are those of the engines in the precision, or else those that spd-build would make.

    Raises:
        BundleError: the bundle has no such precision.
        InputError: no bucket holds so many points.
    """
    found = []
    for graph in GRAPHS:
        bundle.graph(graph, precision)
        record = next(
            (r for r in bundle.manifest.engines if (r.graph, r.precision, r.flavour) == (graph, precision, "tensorrt")),
            None,
        )
        profiles = graph_profiles(graph, bundle.manifest) if record is None else record.profiles
        if graph == "encoder":
            found.append(Case(graph, 0, profiles[0], 0))  # the runtime encodes one image at a time
            continue
        edges = [profile.points[2] for profile in profiles if profile.points is not None]
        taken = [i for i, edge in enumerate(edges) if points is None or points <= edge]
        found += [Case(graph, i, profiles[i], edges[i]) for i in (taken if points is None else taken[:1])]
    if found[-1].graph == "encoder":
        raise InputError(
            f"K = {points} is in no bucket of {bundle.path}, which end at {', '.join(map(str, edges))}; take 1 to "
            f"{edges[-1]}"
        )
    return tuple(found)


def trtexec(bundle: Bundle, precision: str, case: Case, version: int) -> list[str]:
    """The trtexec command line of TensorRT 10 or 11 that builds one graph for one bucket and times it layer by layer.

    A bundle's own engine is loaded instead if this version of TensorRT built it.
    """
    record = next(
        (
            r
            for r in bundle.manifest.engines
            if (r.graph, r.precision) == (case.graph, precision)
            and isinstance(r.target, Target)
            and r.target.tensorrt.split(".")[0] == str(version)
        ),
        None,
    )
    shapes = input_shapes(bundle.manifest.contract.inputs(case.graph), case.profile)
    if record is None:
        model = bundle.path / bundle.manifest.graphs[precision][case.graph]
        source = [f"--onnx={model}"]
        source += [f"--{name}Shapes={_shapes_option(shapes, i)}" for i, name in enumerate(("min", "opt", "max"))]
        source += ["--noTF32", "--profilingVerbosity=detailed"]
    else:
        source = [f"--loadEngine={bundle.path / record.file}", f"--useProfile={case.index}"]
    told = [word for word in TOLD_10 if record is None or word != "--stronglyTyped"] if version == 10 else []
    name = f"{case.label}.{precision}"
    return [
        "trtexec",
        *source,
        f"--shapes={_shapes_option(shapes, 1)}",
        *told,
        *TIMING,
        "--dumpProfile",
        f"--exportProfile={name}.profile.json",
        f"--exportTimes={name}.times.json",
        f"--exportLayerInfo={name}.layers.json",
    ]


def polygraphy(bundle: Bundle, precision: str, case: Case, tensorrt: bool) -> list[str]:
    """The Polygraphy command line for one graph and bucket, with its environment in front.

    Runs ONNX Runtime on real inputs, and with `tensorrt` compares TensorRT with it, to the export's mean tolerance. The
    precision is fp32 or fp16: neither numpy nor ONNX Runtime's CPU provider has bfloat16.
    """
    outputs = ["depth"] if case.graph == "decoder" and bundle.manifest.with_routes else []
    words = [f"SPD_POINTS={case.points}"] if case.points else []
    words += ["polygraphy", "run", str(bundle.path / bundle.manifest.graphs[precision][case.graph])]
    if tensorrt:  # the first of two runners, because relative errors are relative to the second
        words += ["--trt", "--strongly-typed", *(["--trt-outputs", *outputs] if outputs else [])]
        words += _profile_words(bundle, case)
    words += ["--onnxrt", "--providers", "cpu", "--data-loader-script", _loader_script(), "--validate"]
    words += ["--onnx-outputs", *outputs] if outputs else []  # routes of equal weights may come in another order
    if not tensorrt:
        return words
    # Depths are compared relatively, as by the export. The cache holds zeros, so it is compared absolutely; its values
    # are of about 1.
    within, exact = ("--rtol", "--atol") if case.graph == "decoder" else ("--atol", "--rtol")
    return [*words, "--check-error-stat", "mean", within, f"{TOLERANCES[precision].mean:g}", exact, "0"]


def polygraphy_rtx(bundle: Bundle, precision: str, graph: str, found: Sequence[Case], compute: str) -> list[list[str]]:
    """Polygraphy's command lines that ask TensorRT for RTX whether it takes a graph, and compile it; no GPU is needed.

    Args:
        bundle: the bundle.
        precision: fp32, fp16 or bf16.
        graph: encoder or decoder.
        found: from `cases`; those of the graph become the profiles of one plan in the current folder.
        compute: the compute capability, such as 8.9.
    """
    model = str(bundle.path / bundle.manifest.graphs[precision][graph])
    profiles = [word for case in found if case.graph == graph for word in _profile_words(bundle, case)]
    plan = ["--convert-to", "trt", "-o", f"{graph}.{precision}.plan", "--compute-capabilities", compute]
    return [[*FOR_RTX, "inspect", "capability", model], [*FOR_RTX, "convert", model, *plan, *profiles]]


def shell(words: list[str]) -> str:
    """A command line for a shell; assignments in front stay assignments."""
    return " ".join(word if re.fullmatch(r"[A-Z_]+=\d+", word) else shlex.quote(word) for word in words)


def installed_trtexec() -> tuple[str, int] | None:
    """Path and major version of trtexec, or None if it is not on PATH.

    Raises:
        BackendError: it does not say its version, or is one that SPD has no lines for.
    """
    path = shutil.which("trtexec")
    if path is None:
        return None
    done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)  # noqa: S603 - the user's own
    # Its first line: &&&& RUNNING TensorRT.trtexec [TensorRT v101600] ...
    found = re.search(r"\[TensorRT v(\d+)\]", done.stdout + done.stderr)
    major = int(found[1]) // 10000 if found else 0
    if major not in VERSIONS:
        what = f"is of TensorRT {found[1]}" if found else "does not say its version"
        raise BackendError(f"{path} {what}, expected TensorRT 10 or 11; run one of the printed lines by hand")
    return path, major


def run(words: list[str]) -> None:
    """Run a command line, its output on this process's own.

    Raises:
        BackendError: it fails.
    """
    code = subprocess.run(words, check=False).returncode  # noqa: S603 - printed before, and asked for
    if code:
        raise BackendError(f"{words[0]} ended with exit code {code}; its last lines say why")


def _profile_words(bundle: Bundle, case: Case) -> list[str]:
    """The profile of one bucket, as Polygraphy's options."""
    shapes = input_shapes(bundle.manifest.contract.inputs(case.graph), case.profile)
    return [
        word
        for i, name in enumerate(("min", "opt", "max"))
        for word in (
            f"--trt-{name}-shapes",
            *(f"{tensor}:{_bracketed(bounds[i])}" for tensor, bounds in shapes.items()),
        )
    ]


def _shapes_option(shapes: Mapping[str, tuple[Shape, Shape, Shape]], which: int) -> str:
    """`points:1x256x2,l1_map:1x2100x32`."""
    return ",".join(f"{name}:{'x'.join(map(str, bounds[which]))}" for name, bounds in shapes.items())


def _bracketed(shape: Shape) -> str:
    """`[1,256,2]`, as Polygraphy writes shapes."""
    return f"[{','.join(map(str, shape))}]"


def _loader_script() -> str:
    """The script that gives Polygraphy its inputs: of this checkout, or, where SPD is installed, of any."""
    here = Path(__file__).parents[2] / "tools" / LOADER
    if not here.is_file():
        return f"tools/{LOADER}"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
