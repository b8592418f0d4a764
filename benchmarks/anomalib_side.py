"""PatchCore of anomalib on features that are there; `benchmarks.anomalib_patchcore` runs it.

    ENV/bin/python benchmarks/anomalib_side.py FOLDER --memory 4000

ENV is an environment in which anomalib is installed. FOLDER has fit-images.npy and
test-images.npy, features [N, C, h, w]. All places of the fit images are anomalib's memory bank,
which its own greedy k-centre reduces; its own functions score the test images. Image scores and
maps are written to FOLDER/anomalib.npz. Its feature extractor is not used, and no weights are
needed.
"""

import argparse
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

INPUT_SIDE = 256  # pixels of the network's input, to which maps are enlarged and then smoothed


def main() -> None:
    # Not at the top: the project's own environment has no anomalib.
    import torch
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory", type=int, required=True)
    arguments = parser.parse_args()

    model = PatchcoreModel(layers=["layer2"], backbone="resnet18", pre_trained=False).eval()
    fit = torch.from_numpy(np.load(arguments.folder / "fit-images.npy"))
    bank = model.reshape_embedding(fit)
    model.embedding_store.append(bank)
    torch.manual_seed(0)
    start = time.perf_counter()
    model.subsample_embedding(min(1.0, (arguments.memory + 0.5) / len(bank)))
    seconds = time.perf_counter() - start

    scores, maps = [], []
    test = np.load(arguments.folder / "test-images.npy", mmap_mode="r")
    with torch.no_grad():
        for features in test:
            one = torch.from_numpy(np.array(features))[None]
            places = model.reshape_embedding(one)
            distances, nearest = model.nearest_neighbors(embedding=places, n_neighbors=1)
            score = model.compute_anomaly_score(distances[None], nearest[None], places)
            small = distances.reshape(1, 1, *features.shape[1:])
            map_ = model.anomaly_map_generator(small, (INPUT_SIDE, INPUT_SIDE))
            scores.append(float(score))
            maps.append(map_[0, 0].numpy())

    np.savez(
        arguments.folder / "anomalib.npz",
        scores=np.array(scores),
        maps=np.stack(maps),
        candidates=len(bank),
        memory=len(model.memory_bank),
        seconds=seconds,
        version=version("anomalib"),
    )


if __name__ == "__main__":
    main()
