"""Which stage holds a run up, by what evidence, and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mtembed.dataset.settings import Settings
from mtembed.report.network import Network
from mtembed.text import milliseconds
from mtembed.types import STAGES_OF

NEARLY = 0.1  # crews whose busy shares differ by less are told apart by the queue between them
BUSY = 0.5  # below this share nobody is busy enough to be named as the cause without a doubt
NETWORK = "network"  # the limit where reading waits for bytes
CREW = {"decode": "decode workers", "device": "device workers", "write": "the writer"}
SUBJECT = {
    "read": "Reading the shards limits the run",
    NETWORK: "The network limits the run",
    "decode": "Decoding limits the run",
    "upload": "Copying bands to the device limits the run",
    "preprocess": "Cutting and normalising fragments limits the run",
    "forward": "The model's forward pass limits the run",
    "download": "Copying vectors back limits the run",
    "write": "Writing limits the run",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """The limiting stage (a name of ``stages``, or ``network``), the evidence and the advice, one sentence each."""

    stage: str
    evidence: str
    advice: str


def find_limit(
    busy: Mapping[str, float],
    mean_ms: Mapping[str, float],
    count: Mapping[str, int],
    cell_waits_ms: float,
    device_waits_ms: float,
    settings: Settings,
    network: Network | None = None,
) -> Limit:
    """From the crews' busy shares (0..1), mean stage times, crew sizes, both sides' waits at the decoded cells, and
    what came over the network."""
    crew = _limiting_crew(busy, cell_waits_ms, device_waits_ms)
    stage = max(STAGES_OF[crew], key=lambda name: mean_ms[name])
    stage = NETWORK if stage == "read" and network and network.reading_waits else stage
    others = ", ".join(f"{CREW[kind]} {busy[kind]:.0%}" for kind in CREW if kind != crew)
    subject = SUBJECT[stage] if busy[crew] >= BUSY else f"Nobody was busy half of the time, {CREW[crew]} most"
    evidence = (
        f"{subject}: {CREW[crew]} {'was' if crew == 'write' else 'were'} busy {busy[crew]:.0%} of the time"
        f"{_of_which(stage, network)} ({others}); a decoded cell waited {milliseconds(cell_waits_ms)} for a device, "
        f"a device {milliseconds(device_waits_ms)} for a cell (medians)."
    )
    return Limit(stage, evidence, _advice(stage, count, settings, busy[crew]))


def _of_which(stage: str, network: Network | None) -> str:
    waiting = network.waiting if network and stage == NETWORK else None
    return "" if waiting is None else f", {waiting:.0%} waiting for bytes"


def _limiting_crew(busy: Mapping[str, float], cell_waits_ms: float, device_waits_ms: float) -> str:
    busiest = max(CREW, key=lambda kind: busy[kind])
    if busiest == "write" or abs(busy["decode"] - busy["device"]) > NEARLY:
        return busiest
    return "device" if cell_waits_ms >= device_waits_ms else "decode"


def _advice(stage: str, count: Mapping[str, int], settings: Settings, busy: float) -> str:
    if busy < BUSY:
        return "Let it run for longer; if it stays so, raise --slots and --workers."
    on_cpu = settings.device == "cpu"
    workers = f"--workers above {count['decode']}"
    return {
        "read": f"Put the shards on a faster disk, or raise {workers} so that more reads are under way.",
        NETWORK: f"Bring the machine nearer to the shards, or raise {workers} so that more reads are under way.",
        "decode": f"Raise {workers}.",
        "upload": "Give the device a wider link to the host.",
        "preprocess": "Give the run more cores." if on_cpu else "Raise --batch.",
        "forward": _faster_model(on_cpu, settings),
        "download": "Raise --batch.",
        "write": "Put --output on a faster disk, or halve its bytes with --dtype float16.",
    }[stage]


def _faster_model(on_cpu: bool, settings: Settings) -> str:
    more = "Use a GPU or more cores" if on_cpu else "Use more GPUs"
    if settings.model != "rcf":
        more += ", or a 16-bit --precision" if settings.precision == "fp32" else ""
        more += ", or try --engine openvino" if on_cpu and settings.engine == "torch" else ""
    return f"{more}; more decode workers would not help."
