"""Images by sigpy in a Python that has it, which need not have anything else of this repository.

Reads lines of JSON, ``{"kspace": FILE, "maps": FILE, "method": NAME, "weight": NUMBER, "image": FILE}``,
arrays as ``numpy.save`` writes them; answers each with ``{"seconds": NUMBER}`` or ``{"error": TEXT}``.
"""

import json
import sys
import time


def main() -> None:
    import numpy as np
    from sigpy.mri import app

    solvers = {
        "cg-sense": app.SenseRecon,
        "l1-wavelet": app.L1WaveletRecon,
        "total-variation": app.TotalVariationRecon,
    }
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        try:
            kspace, maps = np.load(given["kspace"]), np.load(given["maps"])
            begin = time.perf_counter()
            image = solvers[given["method"]](kspace, maps, given["weight"], show_pbar=False).run()
            image = np.abs(image) * np.linalg.norm(maps, axis=0)
            seconds = time.perf_counter() - begin
            np.save(given["image"], image)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        else:
            print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
