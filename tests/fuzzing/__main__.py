"""``./run fuzz decoders``: atheris, which is guided by what is reached, over the table of all
decoders, for FUZZ_S seconds (60). What it finds ends it with the input and the decoder's name; the
inputs that it learnt from stay in .fuzz/."""

import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cbfs", "cbfs_common", "cbfs_names"]):
    from tests.fuzzing.decoders import DECODERS, samples, try_it

NAMES = sorted(DECODERS)


def one(data: bytes) -> None:
    """The first byte says which decoder."""
    if data:
        name = NAMES[data[0] % len(NAMES)]
        try:
            try_it(name, data[1:])
        except BaseException:
            print(f"the decoder of: {name}", file=sys.stderr)
            raise


def main() -> None:
    """The entry point; atheris ends the process."""
    corpus = Path(".fuzz")
    if not corpus.exists():
        corpus.mkdir()
        for number in range(len(NAMES)):
            for index, sample in enumerate(samples()):
                (corpus / f"{number}-{index}").write_bytes(bytes([number]) + sample)
    seconds = os.environ.get("FUZZ_S", "60")
    limits = [f"-max_total_time={seconds}", "-max_len=20001", "-timeout=10", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", *sys.argv[1:], str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
