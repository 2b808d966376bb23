"""What did the experiments find? Writes the gallery, experiments/README.md, from the recorded results.

python -m experiments.gallery [FOLDER ...]

Each FOLDER is what an experiment wrote (`--out`): its numbers and its main picture are copied into experiments/results first.
The questions are the first lines of the scripts, the findings are in the records: neither is written twice.
"""

import argparse
import ast
import json
import shutil
import sys
from pathlib import Path

from experiments import commands
from jnn.comparison.errors import InputError

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# experiment -> the picture that stands for it, in the order of a course
PICTURES = {
    "linear_classifier": "templates",
    "perceptron": "perceptron",
    "computation_graph": "neuron",
    "gradient_check": "steps",
    "activations": "speed",
    "initialization": "variances",
    "batch_norm": "heatmaps",
    "regularization": "gap",
    "optimizers": "paths",
    "second_order": "descent",
    "universal_approximation": "approximation",
    "babysitting": "diagnoses",
    "hyperparameters": "searches",
    "image_classification": "confusion",
    "receptive_field": "fields",
    "autoencoder": "reconstructions",
    "transfer": "transfer",
    "autoregression": "forecasts",
    "long_memory": "lengths",
    "character_model": "losses_and_speed",
    "graph_network": "embedding",
    "style_transfer": "pictures",
    "hypergradients": "hypergradients",
    "ensembles": "ensembles",
}
TOP = """# Experiments

One script, one question. Each runs as `python -m experiments.NAME`, takes `--help`, `--seed`, `--out` and `--quick` (under a
minute on two cores), and writes `results.json`, its pictures as PNG and SVG, and its finding. What follows was recorded in full
size; intervals are 95 % intervals of the mean over seeds unless a finding says otherwise. This page is written by
`python -m experiments.gallery`.
"""


def question(name: str) -> str:
    """The first line of a script's docstring."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8")))
    return (text or "").partition("\n")[0]


def entry(name: str) -> str:
    """A section of the gallery, from the record of an experiment."""
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    results, machine = record["results"], record["environment"]
    cores = machine["machine"]["cores"]
    where = f"{machine['device']['kind']}, {cores} core{'s' * (cores != 1)}"
    minutes = results["seconds"] / 60
    took = f"{minutes:.0f} min" if minutes >= 1.5 else f"{results['seconds']:.0f} s"
    return (
        f"## {name}\n\n**{question(name)}**\n\n{results['finding']}\n\n![{question(name)}](results/{name}.png)\n\n"
        f"`{results['command']}` ({took} on {where}; {machine['date'][:10]})\n"
    )


def keep(folder: Path):
    """Copies an experiment's numbers and main picture. What --quick found is not for the gallery."""
    try:
        options = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]["options"]
        name, quick = options["experiment"], options["quick"]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{folder} holds no results of an experiment") from error
    if name not in PICTURES:
        raise InputError(f"{folder}: {name} is not in the gallery")
    if quick:
        raise InputError(f"{folder}: {name} was run with --quick; the gallery shows the full size")
    shown = folder / f"{PICTURES[name]}.png"
    if not shown.exists():
        raise InputError(f"{folder} lacks the picture {shown.name}, without which {name} is not shown")
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(shown, RESULTS / f"{name}.png")
    shutil.copyfile(folder / "results.json", RESULTS / f"{name}.json")


def page() -> str:
    """The gallery, of the experiments that are recorded."""
    names = [name for name in PICTURES if (RESULTS / f"{name}.json").exists()]
    contents = "".join(f"- [{name}](#{name}): {question(name)}\n" for name in names)
    return "\n".join([TOP, contents, *map(entry, names)])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    for folder in parser.parse_args(arguments).folders:
        keep(folder)
    (HERE / "README.md").write_text(page(), encoding="utf-8")
    print(f"written: {HERE / 'README.md'}")


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
