"""
How much memory a worker takes, with the whole model on each and in shards: `python -m
benchmarks.sizes`, a minute on 2 cores. It writes `results/sizes.json` and `results/sizes.png`.
"""

import json
import os
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Dict, List

import torch
import torch.distributed as dist
from allennlp.data import Vocabulary
from allennlp.models import Model
from allennlp.nn.parallel import DdpAccelerator, TorchDdpAccelerator

from allennlp_ema import ExponentialMovingAverage, TorchFsdpAccelerator

RESULTS = Path(__file__).parent / "results"
WIDTH, NUM_LAYERS = 1366, 16
NUM_PARAMETERS = NUM_LAYERS * (WIDTH * WIDTH + WIDTH)
KINDS = {"whole": TorchDdpAccelerator, "sharded": TorchFsdpAccelerator}
NUMBERS_OF_WORKERS = (1, 2, 4)
MIB = 1 << 20
MALLOC = "MALLOC_MMAP_THRESHOLD_"


class Layers(Model):
    """30 million parameters in layers of equal size."""

    def __init__(self) -> None:
        super().__init__(Vocabulary())
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(NUM_LAYERS))

    def forward(self, inputs: torch.Tensor) -> Dict[str, torch.Tensor]:  # type: ignore[override]
        for layer in self.layers:
            inputs = torch.tanh(layer(inputs))
        return {"loss": inputs.mean()}


def bytes_of_a_parameter(
    kind: str, num_workers: int, num_averages: int = 1, size: int = 4
) -> float:
    """
    Weight, gradient and Adam's two moments of `size` bytes each, and averages in float32. Whole
    models on several workers have the gradients once more, in the buckets that are summed up.
    """
    everything = 4 * size + 4 * num_averages
    if kind == "sharded":
        return everything / num_workers
    return everything + (size if num_workers > 1 else 0)


def memory(key: str) -> int:
    """In bytes, of this process: `VmRSS`, or at its highest `VmHWM`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{key}:")[1].split()[0]) * 1024


def work(rank: int, num_workers: int, kind: str, directory: str) -> None:
    """Trains for three steps, and writes how much more memory that took than there was before."""
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(directory, "store"), num_workers)
    dist.init_process_group("gloo", rank=rank, world_size=num_workers, store=store)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    torch.manual_seed(0)
    model: Any = Layers()
    if (kind, num_workers) != ("whole", 1):
        accelerator: DdpAccelerator = KINDS[kind](local_rank=rank, world_size=num_workers)
        model = accelerator.wrap_model(model)[1].model
    average = ExponentialMovingAverage(list(model.named_parameters()), decay=0.99)
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, WIDTH))["loss"].backward()
        optimizer.step()
        average.apply(step + 1)
    taken = {"at_its_highest": memory("VmHWM") - before, "after_a_step": memory("VmRSS") - before}
    Path(directory, f"{rank}.json").write_text(json.dumps(taken))
    dist.barrier()


def measured(kind: str, num_workers: int) -> List[Dict[str, int]]:
    """Of each worker, in bytes."""
    with tempfile.TemporaryDirectory() as directory:
        context = get_context("fork")
        workers = [
            context.Process(target=work, args=(rank, num_workers, kind, directory))
            for rank in range(num_workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(300)
            worker.kill()
        files = [Path(directory, f"{rank}.json") for rank in range(num_workers)]
        return [json.loads(file.read_text()) for file in files]


def draw(results: List[Dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), tight_layout=True)
    axes = figure.subplots()
    for kind, color, label in (
        ("whole", "tab:gray", "the whole model on each (torch)"),
        ("sharded", "tab:blue", "in shards (torch_fsdp)"),
    ):
        found = [each for each in results if each["kind"] == kind]
        numbers = [each["num_workers"] for each in found]
        highest = [max(w["at_its_highest"] for w in each["workers"]) / MIB for each in found]
        axes.plot(numbers, highest, "o-", color=color, label=f"{label}, at its highest")
        by_formula = [bytes_of_a_parameter(kind, n) * NUM_PARAMETERS / MIB for n in numbers]
        axes.plot(numbers, by_formula, ":", color=color, label="by the formula, after a step")
    axes.set(xlabel="workers", ylabel="MiB a worker", xticks=NUMBERS_OF_WORKERS)
    axes.set_ylim(bottom=0)
    axes.set_title(f"Adam and one average of {NUM_PARAMETERS / 1e6:.0f}M parameters in float32")
    axes.legend(fontsize="small")
    figure.savefig(str(RESULTS / "sizes.png"), dpi=120)


if __name__ == "__main__":
    if MALLOC not in os.environ:
        # glibc keeps what was freed, more of it each time, unless it is told a limit.
        environment = {**os.environ, MALLOC: str(1 << 17)}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.sizes"], environment)
    found = [
        {"kind": kind, "num_workers": number, "workers": measured(kind, number)}
        for kind in KINDS
        for number in NUMBERS_OF_WORKERS
    ]
    written = {"torch": torch.__version__, "num_parameters": NUM_PARAMETERS, "runs": found}
    (RESULTS / "sizes.json").write_text(json.dumps(written, indent=2) + "\n")
    draw(found)
    for each in found:
        formula = bytes_of_a_parameter(each["kind"], each["num_workers"]) * NUM_PARAMETERS / MIB
        print(
            each["kind"],
            each["num_workers"],
            [{key: round(value / MIB) for key, value in w.items()} for w in each["workers"]],
            f"by the formula {formula:.0f}",
        )
