"""
The tables in `benchmarks/README.md` and the picture, from what is in `benchmarks/results`.

    python -m benchmarks.report
"""

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence

from matplotlib.figure import Figure

from benchmarks.implementations import ALLENNLP, NAMES, OURS
from benchmarks.timing import FLOOR

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LARGE = "BERT-base"
PICTURE = "time_by_size_torch-{version}.png"

Results = Dict[str, Any]


class Target(NamedTuple):
    """
    What must be reached.

    # Parameters

    what : `str`
    at_most : `float`
    of : `str`
        What it is a multiple of.
    reached : `Optional[float]`
        `None` if it was not measured.
    """

    what: str
    at_most: float
    of: str
    reached: Optional[float]


def targets(results: Results) -> List[Target]:
    """What is to be reached with the version of torch that the results are of."""
    allennlp = f"{ALLENNLP} time"
    if int(results["versions"]["torch"].split(".")[0]) < 2:
        updates = results.get(f"updates: {LARGE}")
        return [Target(f"update, {LARGE}", 1 / 3, allennlp, _against(updates, [ALLENNLP]))]
    found = []
    for case in ("one tensor of 64M", LARGE):
        updates = results.get(f"updates: {case}")
        found += [
            Target(f"update, {case}", 1.05, "the floor", _of_floor(updates)),
            Target(f"update, {case}", 1.0, "the fastest peer", _against(updates)),
        ]
    tagger = results.get("updates: small tagger")
    found += [
        Target("update, small tagger", 1 / 6, allennlp, _against(tagger, [ALLENNLP])),
        Target("update, small tagger", 1 / 2, "the fastest peer", _against(tagger)),
        Target(
            "update, 400 tensors of 256",
            1 / 10,
            allennlp,
            _against(results.get("updates: 400 tensors of 256"), [ALLENNLP]),
        ),
    ]
    for what, at_most, num_bytes in (
        ("float16", 2.2, 10),
        ("bfloat16", 2.2, 10),
        ("float64 shadows", 2.0, 20),
        ("bank of 3", 1.5, 28),
    ):
        floor = f"the floor ({num_bytes} bytes a value)"
        found.append(Target(f"update, {what}", at_most, floor, _of_floor(results.get(what))))
    found += [
        Target(what, 1.6, "the floor (16 bytes a value)", _of_floor(results.get("exchanges"), name))
        for what, name in (("assign", f"{OURS}: assign"), ("restore", f"{OURS}: restore"))
    ]
    memory = results.get("memory", {}).get(OURS, {})
    found += [
        Target(
            "memory beside the model while training", 1.01, "the averages", memory.get("training")
        ),
        Target("state in a checkpoint", 1.01, "the averages", memory.get("in a checkpoint")),
        Target(
            "`allennlp train`, a step with the average",
            1.01,
            "one without",
            results.get("training", {}).get("on_against_off"),
        ),
    ]
    for case, overlap in _overlaps(results).items():
        what = f'averaging with `"sequential_update": false`, {case}, main thread'
        found.append(Target(what, 0.1, "% of a step", 100 * overlap["share_beside"]))
    return found


def _overlaps(results: Results) -> Dict[str, Any]:
    return {key.partition(": ")[2]: v for key, v in results.items() if key.startswith("overlap: ")}


def _of_floor(timings: Optional[Results], name: str = OURS) -> Optional[float]:
    return timings[name]["times_the_floor"] if timings else None


def _against(timings: Optional[Results], others: Sequence[str] = ()) -> Optional[float]:
    """Our time over that of the fastest of `others`, or of all others that are not AllenNLP's."""
    if not timings:
        return None
    others = others or [name for name in timings if name not in (FLOOR, OURS, ALLENNLP)]
    fastest = min(timings[name]["milliseconds"] for name in others)
    return timings[OURS]["milliseconds"] / fastest


def write_report(results_folder: Path = RESULTS, readme: Path = HERE / "README.md") -> None:
    """Puts the tables between the marks in `readme`, and a picture beside each file of results."""
    paths = sorted(results_folder.glob("torch-*.json"), reverse=True)
    parts = []
    for path in paths:
        results = json.loads(path.read_text(encoding="utf-8"))
        parts += _sections(results)
        if "updates by size" in results:
            picture = path.with_name(PICTURE.format(version=results["versions"]["torch"]))
            _draw(results["updates by size"], results["versions"]["torch"], picture)
            parts.append(
                "![Time of an update against the number of values, every implementation]"
                f"({results_folder.name}/{picture.name})"
            )
    text = readme.read_text(encoding="utf-8")
    between = "<!-- results -->\n\n" + "\n\n".join(parts) + "\n\n<!-- end -->"
    text = re.sub("<!-- results -->.*?<!-- end -->", lambda _: between, text, flags=re.DOTALL)
    readme.write_text(text, encoding="utf-8")


def _sections(results: Results) -> List[str]:
    versions, machine = results["versions"], results["machine"]
    others = ", ".join(f"{name} {v}" for name, v in versions.items() if name != "torch")
    parts = [
        f"## torch {versions['torch']}",
        f"{results['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, {machine['device'] or 'no CUDA device'}; {others}.",
        _target_table(targets(results)),
        "An update, in multiples of the floor, and in milliseconds:",
        _time_table(results, [key for key in results if key.startswith("updates: ")], NAMES),
    ]
    special = ["float16", "bfloat16", "float64 shadows", "bank of 3", "update_every 10"]
    for explanation, cases in (
        (f"Other updates of {LARGE}, in multiples of their own floors:", special),
        (f"The exchange with {LARGE}, in multiples of an exact one's floor:", ["exchanges"]),
        ("Making the average, in multiples of copying the parameters:", ["constructions"]),
    ):
        cases = [case for case in cases if case in results]
        if cases:
            names = dict.fromkeys(name for case in cases for name in results[case])
            parts += [explanation, _time_table(results, cases, list(names))]
    if "memory" in results:
        columns = ["training", "assigned", "in a checkpoint"]
        parts += [
            f"Highest memory beside {LARGE}, and bytes in a checkpoint, in multiples of the "
            "averaged values' bytes:",
            _table(
                ["", *columns],
                [
                    [name, *(f"{m[c]:.2f}" if c in m else "" for c in columns)]
                    for name, m in results["memory"].items()
                ],
            ),
        ]
    if "import seconds" in results:
        seconds = results["import seconds"]
        parts.append(
            f"Import: AllenNLP's command line {seconds['allennlp']:.2f} s, allennlp_ema after it "
            f"{seconds['allennlp_ema']:.2f} s."
        )
    parts += _training_parts(results)
    if results.get("cuda"):
        columns = list(next(iter(results["cuda"].values())))
        parts += [
            f"An update of {LARGE} on the device:",
            _table(
                ["", *(column.replace("_", " ") for column in columns)],
                [
                    [name, *(f"{values[c]:.3g}" for c in columns)]
                    for name, values in results["cuda"].items()
                ],
            ),
        ]
    return parts


def _training_parts(results: Results) -> List[str]:
    parts = []
    if "training" in results:
        training = results["training"]
        parts.append(
            "`allennlp train training_configs/ud_ewt.jsonnet`, one thread: "
            f"{training['updates_per_second_on']:.1f} updates a second with the average, "
            f"{training['updates_per_second_off']:.1f} without; averaging itself is "
            f"{100 * training['share']:.2f}% of a step."
        )
    if _overlaps(results):
        parts += [
            'Steps of `allennlp train` with `"sequential_update": false`, in multiples of the time '
            "that they take with true, and what averaging takes of them on the main thread:",
            _table(
                ["", "steps", "averaging with false", "with true"],
                [
                    [
                        case,
                        f"{overlap['beside_against_sequential']:.3f}",
                        f"{100 * overlap['share_beside']:.2f}%",
                        f"{100 * overlap['share_sequential']:.2f}%",
                    ]
                    for case, overlap in _overlaps(results).items()
                ],
            ),
        ]
    if "snapshot" in results:
        snapshot = results["snapshot"]
        parts.append(
            f"A snapshot of {LARGE}: a step waits {snapshot['copy']:.2f} s for the copy; the file "
            f"takes {snapshot['write']:.2f} s beside the training."
        )
    return parts


def _target_table(found: Iterable[Target]) -> str:
    return _table(
        ["", "at most", "reached", "times"],
        [
            [t.what, f"{t.at_most:.3g}", "" if t.reached is None else f"{t.reached:.3f}", t.of]
            for t in found
        ],
    )


def _time_table(results: Results, cases: Sequence[str], names: Iterable[str]) -> str:
    rows = []
    for name in dict.fromkeys([FLOOR, *names]):
        cells = []
        for case in cases:
            timing = results[case].get(name)
            cells.append(
                f"{timing['times_the_floor']:.2f} ({timing['milliseconds']:.3g})" if timing else ""
            )
        if any(cells):
            rows.append([name, *cells])
    return _table(["", *(case.replace("updates: ", "") for case in cases)], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _draw(by_size: Results, torch_version: str, path: Path) -> None:
    sizes = sorted(by_size, key=int)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for name in [OURS, *(name for name in by_size[sizes[0]] if name not in (OURS, FLOOR))]:
        axes.loglog(
            [int(size) for size in sizes],
            [by_size[size][name]["milliseconds"] for size in sizes],
            marker="o",
            markersize=4,
            linewidth=2.5 if name == OURS else 1.2,
            label=name,
        )
    axes.loglog(
        [int(size) for size in sizes],
        [by_size[size][FLOOR]["milliseconds"] for size in sizes],
        color="black",
        linestyle="--",
        label="floor: one lerp_ over one flat tensor",
    )
    axes.set_xlabel("values in the model, in 64 equal tensors")
    axes.set_ylabel("time of an update (ms of CPU, one thread)")
    axes.set_title(f"Exponential averages, float32, torch {torch_version}")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    write_report()
