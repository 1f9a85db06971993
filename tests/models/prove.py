"""Runs ProVerif on the models beside this file: ``./run prove [--write] [NAME...]``."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.models.proofs import (
    NO_END,
    PRIMITIVES,
    Model,
    Results,
    check_case,
    in_case,
    models,
    parse_output,
    read_results,
    write_results,
)

CASE_MAX = 300
"""Seconds for one case of a model, unless others are asked for."""

MISSING = """cbfs: error: proverif is not installed
cbfs: hint: it is neither in Debian nor in a registry of packages. By hand: install ocaml and
    ocaml-findlib, take the sources from https://bblanche.gitlabpages.inria.fr/proverif/,
    run ./build -nointeract there, and put the program proverif that it makes into your PATH
"""


def run(program: str, model: Model, case: str, seconds: float) -> tuple[str, ...]:
    """What ProVerif says of each query of a model in a case."""
    check_case(model, case)
    with tempfile.TemporaryDirectory() as name:
        library, text = Path(name, PRIMITIVES.name), Path(name, model.path.name)
        library.write_text(in_case(PRIMITIVES.read_text(), case))
        text.write_text(in_case(model.text, case))
        command = [program, "-lib", str(library), str(text)]
        try:
            output = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, check=False
            ).stdout
        except subprocess.TimeoutExpired:
            return (NO_END,) * len(model.queries)
    return parse_output(model, case, output)


def prove(
    program: str, version: str, model: Model, pool: ThreadPoolExecutor, seconds: float
) -> Results:
    """All cases of a model."""
    found = {}
    said = pool.map(lambda case: run(program, model, case, seconds), model.cases)
    for case, words in zip(model.cases, said, strict=True):
        found[case] = words
        print(f"{model.path.stem}: {case}: {' '.join(words)}", file=sys.stderr, flush=True)
    return Results(version, model.digest, model.queries, found)


def differences(model: Model, results: Results) -> list[str]:
    """What ProVerif says now and the results file does not."""
    if not model.results.exists():
        return [f"{model.results.name} is not there"]
    kept = read_results(model.results)
    if kept.queries != results.queries or list(kept.said) != list(results.said):
        return [f"{model.results.name} has other queries or cases"]
    return [
        f"{model.path.name}, {case}: {said}, and not {kept.said[case]}"
        for case, said in results.said.items()
        if kept.said[case] != said
    ] + [f"{model.results.name} is of another text"] * (kept.digest != results.digest)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run prove", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the results files anew")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models, all if none is named")
    parser.add_argument("--seconds", type=float, default=CASE_MAX, help="for one case at most")
    options = parser.parse_args()
    program = shutil.which("proverif")
    if program is None:
        sys.stderr.write(MISSING)
        return 1
    told = subprocess.run(
        [program, "-help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    version = re.search(r"Proverif (\S+?)\.? ", told)
    if version is None:
        sys.exit(f"{program} says nothing of its version")
    different = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for model in models():
            if options.names and model.path.stem not in options.names:
                continue
            results = prove(program, version[1], model, pool, options.seconds)
            text = write_results(results)
            print(f"{model.path.name}\n{text}", flush=True)
            if options.write:
                model.results.write_text(text)
            else:
                different += differences(model, results)
    for difference in different:
        print(difference, file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
