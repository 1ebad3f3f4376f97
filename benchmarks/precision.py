"""What each precision costs on this machine: pictures per second, forward and training.

    python benchmarks/precision.py [MobileNet DenseNet121 ...]

Each precision runs in a process of its own, in turns, several rounds; medians are printed, and
the ratio to float32. `precision.resolve("auto")` should name the fastest.
"""

import json
import statistics
import subprocess
import sys
import time

ROUNDS = 3
BATCHES = 3


def measure(name: str, arithmetic: str) -> dict[str, float]:
    """Pictures per second of one network in one precision, in this process."""
    import keras
    import numpy as np

    from fracture_utils.config import Config
    from fracture_utils.models import classifier, precision
    from fracture_utils.models.backbones import REGISTRY, Weights

    config = Config(source="phantoms", batch_size=16)
    model = classifier.build(REGISTRY[name], Weights("random"), config, arithmetic)
    classifier.unfreeze(model, REGISTRY[name], config.fine_tune_depth)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=precision.compile_ahead())
    size = REGISTRY[name].size(config)
    batch = np.random.default_rng(0).uniform(0, 255, (16, size, size, 1)).astype(np.float32)
    labels = np.tile([0.0, 1.0], 8)[:, None]
    rates = {}
    steps = {
        "forward": lambda: model.predict_on_batch(batch),
        "training": lambda: model.train_on_batch(batch, labels),
    }
    for what, step in steps.items():
        step()
        started = time.perf_counter()
        for _ in range(BATCHES):
            step()
        rates[what] = BATCHES * len(batch) / (time.perf_counter() - started)
    return rates


def main(names: list[str]) -> None:
    """Print the table."""
    from fracture_utils.models import precision

    kinds = ["float32", "mixed_bfloat16", "graph_bfloat16"]
    sys.stdout.write(f"auto means {precision.resolve('auto')} on {precision.hardware()}\n")
    for name in names:
        runs = {kind: [] for kind in kinds}
        for _ in range(ROUNDS):
            for kind in kinds:
                command = [sys.executable, __file__, "--one", name, kind]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[kind].append(json.loads(done.stdout.splitlines()[-1]))
        for what in ("forward", "training"):
            medians = {k: statistics.median(r[what] for r in runs[k]) for k in kinds}
            cells = [f"{k} {m:6.1f} ({m / medians['float32']:.2f}x)" for k, m in medians.items()]
            sys.stdout.write(f"{name:12} {what:9} pictures/s: {', '.join(cells)}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.stdout.write(json.dumps(measure(*sys.argv[2:4])) + "\n")
    else:
        main(sys.argv[1:] or ["MobileNet", "DenseNet121", "ResNet50"])
